// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/skepvm/skep/internal/limits"
	"github.com/skepvm/skep/internal/worker"
	"github.com/skepvm/skep/netif"
)

// Host is this host with its machines. It is safe for many callers at once.
type Host struct {
	cfg      resolved
	log      *slog.Logger
	store    store
	net      network
	pool     *netif.Pool
	images   imageSource
	hub      *hub
	boot     string // identity of the host's present boot
	limits   *limits.Host
	memLimit int64
	fault    func(point string) // tests kill the process here
	starting chan struct{}      // holds one for each machine that starts

	ctx    context.Context // of background work; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of background work

	mu        sync.Mutex
	closed    bool
	machines  map[key]*Machine
	failed    map[key]*Machine // what is left to look at; at most maxFailed
	failOrder []*Machine       // the oldest first
	committed int64            // memory of machines that run or are about to
}

// minStarting is how many machines may start at a time on a host of few processors;
// otherwise as many as it has. A worker has startPatience to run its guest: of more
// at once each would only take longer, and all might be too late.
const minStarting = 2

// maxFailed bounds how many failed Creates are remembered.
const maxFailed = 1024

// MaybeWorker turns this process into a machine's worker, and does not return,
// if it was started as one. A program that opens a Host calls it first in main.
func MaybeWorker() {
	if len(os.Args) >= 2 && os.Args[1] == worker.Arg {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		os.Exit(worker.Main(buildGuest, log))
	}
}

// parts are what tests put in place of the real things.
type parts struct {
	network func(*resolved) (network, error)
	images  func(*resolved, store) (imageSource, error)
	fault   func(string)
}

// Open opens the store, takes the host's lock, finishes or undoes what a crash
// left half done, finds the workers that still run, and starts the machines
// that are to start with the host. It answers ErrLocked if another daemon has
// the store.
//
// On Linux without systemd a process that is alone in its control
// group moves into one below it, so that workers can have theirs beside it, with limits.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	return open(ctx, cfg, parts{network: openNetwork, images: openImages, fault: func(string) {}})
}

func open(ctx context.Context, cfg Config, p parts) (_ *Host, err error) {
	res, err := cfg.resolve()
	if err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	h := &Host{
		cfg:      res,
		log:      res.Logger,
		hub:      newHub(),
		fault:    p.fault,
		machines: map[key]*Machine{},
		failed:   map[key]*Machine{},
		starting: make(chan struct{}, max(minStarting, runtime.NumCPU())),
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open host: %w", err), h.Close())
		}
	}()
	if len(h.cfg.Worker) == 0 {
		h.cfg.Worker, err = ownExecutable()
		if err != nil {
			return nil, err
		}
	}
	if h.boot, err = bootID(); err != nil {
		return nil, err
	}
	if h.memLimit = res.Limits.Memory; h.memLimit == 0 {
		total, err := hostMemory()
		if err != nil {
			return nil, err
		}
		h.memLimit = total - total/8
	}
	if err := os.MkdirAll(res.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if h.pool, err = newPool(&res); err != nil {
		return nil, err
	}
	if h.store, err = openStore(ctx, res.Store, h.fault); err != nil {
		return nil, err
	}
	if h.images, err = p.images(&h.cfg, h.store); err != nil {
		return nil, err
	}
	if h.net, err = p.network(&h.cfg); err != nil {
		return nil, err
	}
	if h.limits, err = limits.Open(); err != nil {
		h.log.Warn("machines run without some limits", "error", err)
	}
	if err := h.recover(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

func newPool(cfg *resolved) (*netif.Pool, error) {
	n := cfg.Network
	spec := netif.PoolSpec{Prefix: n.Address.Masked(), Gateway: n.Address.Addr()}
	if n.First.IsValid() {
		spec.Range = netif.Range{First: n.First, Last: n.Last}
	}
	pool, err := netif.NewPool(spec)
	if err != nil {
		return nil, &FieldError{Field: "Network", Why: "no pool of addresses", Err: err}
	}
	return pool, nil
}

// Close lets go of the store. Machines run on; a later Open finds them. A
// Create that is under way is undone first.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.wg.Wait()
	h.hub.close()
	var errs []error
	if h.net != nil {
		errs = append(errs, h.net.close())
	}
	if h.store != nil {
		errs = append(errs, h.store.close())
	}
	return errors.Join(errs...)
}

// background runs do in a goroutine that Close waits for; false if the host is
// closed.
func (h *Host) background(do func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		do()
	}()
	return true
}

// Get finds a machine; one whose Create failed too, in StateFailed. An empty
// namespace is LocalNamespace.
func (h *Host) Get(namespace, name string) (*Machine, error) {
	if namespace == "" {
		namespace = LocalNamespace
	}
	k := key{namespace, name}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if m := h.machines[k]; m != nil {
		return m, nil
	}
	if m := h.failed[k]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("machine %s: %w", k, ErrNotFound)
}

// List gives the machines of a namespace, or of all if it is empty, ordered by
// namespace and name. Those whose Create failed are not among them.
func (h *Host) List(namespace string) []Status {
	var list []Status
	for _, m := range h.all() {
		if namespace == "" || m.key.namespace == namespace {
			list = append(list, m.Status())
		}
	}
	slices.SortFunc(list, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Spec.Namespace, b.Spec.Namespace), cmp.Compare(a.Spec.Name, b.Spec.Name))
	})
	return list
}

func (h *Host) all() []*Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Machine, 0, len(h.machines))
	for _, m := range h.machines {
		all = append(all, m)
	}
	return all
}

// Info tells what the host has and what is left of it.
func (h *Host) Info(ctx context.Context) (Info, error) {
	total, err := hostMemory()
	if err != nil {
		return Info{}, err
	}
	free, err := h.store.free()
	if err != nil {
		return Info{}, err
	}
	name, err := os.Hostname()
	if err != nil {
		return Info{}, err
	}
	i := Info{
		Hostname: name, OS: runtime.GOOS, Emulator: emulator, CPUs: runtime.NumCPU(),
		Memory: total, MemoryLimit: h.memLimit, DiskFree: free, Store: h.cfg.Store,
		Addresses: poolSize(&h.cfg),
	}
	i.AddressesFree = i.Addresses - len(h.pool.Claims())
	for _, m := range h.all() {
		i.Machines++
		r := m.record()
		if r.State == StateRunning || r.State == StatePaused {
			i.Running++
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i.MemoryCommitted = h.committed
	i.DiskPromised = h.promised()
	return i, nil
}

// RunDir is the directory of control sockets: Config.RunDir or its default.
func (h *Host) RunDir() string { return h.cfg.RunDir }

// Flavors lists the named sizes.
func (h *Host) Flavors() []Flavor { return slices.Clone(h.cfg.Flavors) }

// Images lists the catalogue.
func (h *Host) Images(ctx context.Context) ([]Image, error) { return h.images.list(ctx) }

// WarmImage fetches an image, checks it and makes it ready to be cloned.
// progress, if not nil, is called with bytes done and in all (0: not known).
// Callers who warm the same image at once share the work.
func (h *Host) WarmImage(ctx context.Context, name string, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	_, err := h.images.warm(ctx, name, progress)
	return err
}

// RemoveImage drops the warm copy of an image; the catalogue keeps its name.
func (h *Host) RemoveImage(ctx context.Context, name string) error {
	return h.images.remove(ctx, name)
}
