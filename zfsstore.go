// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/skepvm/skep/zfs"
)

// zfsStore keeps everything in one dataset, so that a pool that moves to
// another host brings its machines along:
//
//	ROOT                    file system: the daemon's lock, and images/ of package image;
//	                        the store's format and last host in user properties
//	ROOT/images/KEY         zvol of a warm image, with the snapshot @base
//	ROOT/machines/ID        file system of a machine's small files; its record in user properties
//	ROOT/machines/ID/disk   zvol, a clone; snapshots of it are NAME.ID
//	ROOT/machines/ID/old-N  a disk before a rollback that newer snapshots outlived
//	ROOT/gone/ID            a machine that is being removed
//
// ROOT says as skep:format how the store is laid out, and a release that does
// not know it leaves it alone; as skep:host it says which host opened it last,
// for people and for that error. Nothing else in it is of the host: the network,
// the limits and the catalogue are Config's, and which names and addresses are
// taken is known from the machines' records, so that a pool brings to another
// host machines and warm images and nothing of the host that it was on.
// ROOT is mounted where its mountpoint says, which it inherits or the operator
// has set, and must be one (not none or legacy).
// ROOT/images, ROOT/machines and ROOT/gone have canmount=off and volmode=dev,
// which the volumes below them inherit.
//
// An image whose file is refreshed or removed leaves a zvol. It is destroyed
// when the store is opened and no machine is a clone of it any more.
//
// A snapshot's name ends with the machine's ID because a clone that outlives
// its origin takes the origin's snapshots over, beside its own.
type zfsStore struct {
	h     *zfs.Handle
	root  string // dataset
	at    string // where it is mounted
	lock  *os.File
	d     durable
	fault func(string)

	mu     sync.Mutex
	making map[string]chan struct{} // images' zvols that are being made; closed when that has ended
}

const (
	propRecord = "skep:record" // the record, or its first part
	propParts  = "skep:parts"  // how many parts there are
	propSource = "skep:source" // of an image's zvol: the name of the file that it is a copy of
	propFormat = "skep:format" // of ROOT: storeFormat when it was last opened
	propHost   = "skep:host"   // of ROOT: name of the host that opened it last
	partSize   = 8000          // a user property holds 8191 bytes

	snapBase = "base"

	// storeFormat is how a store is laid out. It counts up when a release of
	// before would make nothing good of what it finds.
	storeFormat = 1
)

func openZFSStore(ctx context.Context, root string, fault func(string)) (_ *zfsStore, err error) {
	h, err := zfs.Open()
	if err != nil {
		return nil, fmt.Errorf("open store zfs:%s: %w", root, err)
	}
	s := &zfsStore{h: h, root: root, d: durable{fault: fault}, fault: fault, making: map[string]chan struct{}{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open store zfs:%s: %w", root, err), s.close())
		}
	}()
	if err := s.ensure(ctx, root, nil); err != nil {
		return nil, err
	}
	if s.at, err = s.mount(ctx, root); err != nil {
		return nil, err
	}
	if s.lock, err = lockFile(filepath.Join(s.at, "lock")); err != nil {
		return nil, err
	}
	if err := s.claim(ctx); err != nil {
		return nil, err
	}
	for _, name := range []string{s.imageZvols(), s.machines(), s.gone()} {
		if err := s.ensureParent(ctx, name); err != nil {
			return nil, err
		}
	}
	return s, os.MkdirAll(s.images(), 0o700)
}

// claim checks the store's format, and says in ROOT that this host has it now.
func (s *zfsStore) claim(ctx context.Context) error {
	d, err := s.h.Get(ctx, s.root, propFormat, propHost)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	was, by := localValue(d, propFormat), localValue(d, propHost)
	if was != "" { // else it is new, or of before this was written
		n, err := strconv.Atoi(was)
		if err != nil || n < 1 {
			return fmt.Errorf("%s is %q, want a number", propFormat, was)
		}
		if n > storeFormat {
			return fmt.Errorf("it has format %d, which a newer release gave it on host %q; this one knows up to %d", n, by, storeFormat)
		}
	}
	now := zfs.Props{propFormat: strconv.Itoa(storeFormat), propHost: host}
	if was == now[propFormat] && by == host {
		return nil
	}
	return s.h.Set(ctx, s.root, now)
}

// localValue gives the value of a property that the dataset itself has; else it is empty.
func localValue(d *zfs.Dataset, prop string) string {
	if p, ok := d.Property(prop); ok && (p.Source == zfs.SourceLocal || p.Source == zfs.SourceReceived) {
		return p.Value
	}
	return ""
}

func (s *zfsStore) ensure(ctx context.Context, name string, props zfs.Props) error {
	err := s.h.CreateFilesystem(ctx, name, props)
	if errors.Is(err, zfs.ErrExists) {
		return nil
	}
	return err
}

// ensureParent makes a parent of volumes. They inherit volmode dev: the node
// alone, without the partitions in it, which are the guest's. Inherited, it is
// so from the start and costs no transaction group.
func (s *zfsStore) ensureParent(ctx context.Context, name string) error {
	const volmode, dev = "volmode", "dev"
	if err := s.ensure(ctx, name, zfs.Props{"canmount": "off", volmode: dev}); err != nil {
		return err
	}
	d, err := s.h.Get(ctx, name, volmode)
	if err != nil || d.Value(volmode) == dev {
		return err
	}
	return s.h.Set(ctx, name, zfs.Props{volmode: dev}) // it was there before
}

// mount mounts a file system, if it is not, and gives where.
func (s *zfsStore) mount(ctx context.Context, name string) (string, error) {
	where, err := s.h.Mounted(name)
	if err != nil {
		return "", err
	}
	if len(where) == 0 {
		if err := s.h.Mount(ctx, name, zfs.MountOptions{}); err != nil {
			return "", err
		}
		if where, err = s.h.Mounted(name); err != nil {
			return "", err
		}
	}
	if len(where) == 0 {
		return "", fmt.Errorf("file system %s: mounted, and not there", name)
	}
	return where[0], os.Chmod(where[0], 0o700)
}

func (s *zfsStore) imageZvols() string       { return s.root + "/images" }
func (s *zfsStore) machines() string         { return s.root + "/machines" }
func (s *zfsStore) gone() string             { return s.root + "/gone" }
func (s *zfsStore) machine(r *record) string { return s.machines() + "/" + r.ID }
func (s *zfsStore) disk(r *record) string    { return s.machine(r) + "/disk" }
func (s *zfsStore) images() string           { return filepath.Join(s.at, "images") }
func (s *zfsStore) dir(r *record) string     { return filepath.Join(s.at, "machines", r.ID) }
func base(name string) string                { return name[strings.LastIndexByte(name, '/')+1:] }
func snapName(r *record, name string) string { return name + "." + r.ID }

func (s *zfsStore) close() error {
	var err error
	if s.lock != nil {
		err = s.lock.Close()
	}
	return errors.Join(err, s.h.Close())
}

func (s *zfsStore) load(ctx context.Context) ([]*record, error) {
	if err := errors.Join(s.sweepGone(ctx), s.sweepImages(ctx)); err != nil {
		return nil, fmt.Errorf("clean store: %w", err)
	}
	var found []*zfs.Dataset
	for d, err := range s.h.Descend(ctx, s.machines(), zfs.Filesystems, zfs.Depth(1), zfs.With()) {
		if err != nil {
			return nil, fmt.Errorf("load store: %w", err)
		}
		if idRule.MatchString(base(d.Name)) {
			found = append(found, d)
		}
	}
	var all []*record
	for _, d := range found {
		id := base(d.Name)
		b, err := recordOf(d)
		if err != nil {
			return nil, fmt.Errorf("load machine %s: %w", id, err)
		}
		if b == nil { // the daemon died before the record was there
			if err := s.h.Destroy(ctx, d.Name, zfs.DestroyOptions{Recursive: true}); err != nil {
				return nil, fmt.Errorf("clean machine %s: %w", id, err)
			}
			continue
		}
		r, err := decodeRecord(b, id)
		if err != nil {
			return nil, fmt.Errorf("load machine %s: %s: %w", id, d.Name, err)
		}
		if err := s.adopt(ctx, r); err != nil {
			return nil, fmt.Errorf("load machine %s: %w", id, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// adopt mounts a machine's files and ends a rollback that was cut.
func (s *zfsStore) adopt(ctx context.Context, r *record) error {
	dir, err := s.mount(ctx, s.machine(r))
	if err != nil {
		return err
	}
	if dir != s.dir(r) {
		return fmt.Errorf("file system %s is mounted on %s, not %s", s.machine(r), dir, s.dir(r))
	}
	if err := s.d.sweep(dir); err != nil {
		return err
	}
	return s.endSwap(ctx, r)
}

// recordOf puts a record together from the properties that the dataset itself has.
func recordOf(d *zfs.Dataset) ([]byte, error) {
	parts := localValue(d, propParts)
	if parts == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(parts)
	if err != nil || n < 1 || n > 1000 {
		return nil, fmt.Errorf("%s is %q", propParts, parts)
	}
	var b []byte
	for i := range n {
		part, ok := d.Property(partName(i))
		if !ok {
			return nil, fmt.Errorf("part %d of %d of the record is missing", i+1, n)
		}
		b = append(b, part.Value...)
	}
	return b, nil
}

func partName(i int) string {
	if i == 0 {
		return propRecord
	}
	return propRecord + "." + strconv.Itoa(i)
}

func recordProps(r *record) (zfs.Props, error) {
	b, err := r.encode()
	if err != nil {
		return nil, err
	}
	p := zfs.Props{}
	n := 0
	for ; n == 0 || len(b) > 0; n++ {
		k := min(partSize, len(b))
		p[partName(n)] = string(b[:k])
		b = b[k:]
	}
	p[propParts] = strconv.Itoa(n)
	return p, nil
}

func (s *zfsStore) create(ctx context.Context, r *record) error {
	p, err := recordProps(r)
	if err != nil {
		return err
	}
	if err := s.h.CreateFilesystem(ctx, s.machine(r), p); err != nil {
		return s.errs(err)
	}
	s.fault("created the machine's dataset")
	if err := s.adopt(ctx, r); err != nil {
		return errors.Join(err, s.remove(context.WithoutCancel(ctx), r))
	}
	return nil
}

// save sets all parts in one request, which the kernel carries out at one instant.
func (s *zfsStore) save(ctx context.Context, r *record) error {
	p, err := recordProps(r)
	if err != nil {
		return err
	}
	err = s.h.Set(ctx, s.machine(r), p)
	s.fault("saved the record")
	return s.errs(err)
}

// remove lets clones of the machine's snapshots have these, renames the machine
// out of the way, which happens at one instant, and destroys it.
func (s *zfsStore) remove(ctx context.Context, r *record) error {
	name := s.machine(r)
	if there, err := s.h.Exists(ctx, name); err != nil || !there {
		return errors.Join(err, s.sweepGone(ctx))
	}
	if err := s.freeClones(ctx, name); err != nil {
		return err
	}
	if err := s.h.Unmount(ctx, name, true); err != nil {
		return err
	}
	if err := s.h.Rename(ctx, name, s.gone()+"/"+r.ID, false); err != nil {
		return s.errs(err)
	}
	s.fault("renamed the machine's dataset")
	return s.sweepGone(ctx)
}

// freeClones promotes the clones of a machine's disks that are of others.
func (s *zfsStore) freeClones(ctx context.Context, name string) error {
	var disks []string
	for d, err := range s.h.Descend(ctx, name, zfs.Volumes) {
		if err != nil {
			return err
		}
		disks = append(disks, d.Name)
	}
	for _, disk := range disks {
		for again := true; again; {
			again = false
			for snap, err := range s.h.Snapshots(ctx, disk) {
				if err != nil {
					return err
				}
				clones, err := s.h.Clones(ctx, snap.Name)
				if err != nil {
					return err
				}
				for _, c := range clones {
					if strings.HasPrefix(c, name+"/") {
						continue
					}
					if err := s.h.Promote(ctx, c); err != nil {
						return err
					}
					again = true
					break
				}
				if again { // the snapshots have moved
					break
				}
			}
		}
	}
	return nil
}

// sweepGone destroys what was renamed to be destroyed. What is still held by a
// worker that is on its way out stays for the next time.
func (s *zfsStore) sweepGone(ctx context.Context) error {
	var errs []error
	var left []string
	for d, err := range s.h.Descend(ctx, s.gone(), zfs.Filesystems, zfs.Depth(1), zfs.NamesOnly) {
		if err != nil {
			return err
		}
		if d.Name != s.gone() {
			left = append(left, d.Name)
		}
	}
	for _, name := range left {
		err := s.freeClones(ctx, name)
		if err == nil {
			err = s.h.Unmount(ctx, name, true)
		}
		if err == nil {
			err = s.h.Destroy(ctx, name, zfs.DestroyOptions{Recursive: true})
		}
		s.fault("destroyed a machine's dataset")
		if err == nil {
			err = s.dropOrphans(ctx, base(name))
		}
		if !errors.Is(err, zfs.ErrBusy) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dropOrphans destroys the snapshots of a machine that is gone, which its clones had to take over.
func (s *zfsStore) dropOrphans(ctx context.Context, id string) error {
	var names []string
	for d, err := range s.h.Descend(ctx, s.machines(), zfs.Snapshots, zfs.NamesOnly) {
		if err != nil {
			return err
		}
		if strings.HasSuffix(d.Name, "."+id) {
			names = append(names, d.Name)
		}
	}
	return s.h.DestroySnapshots(ctx, names, true)
}

func (s *zfsStore) free() (int64, error) {
	d, err := s.h.Get(context.Background(), s.root)
	if err != nil {
		return 0, err
	}
	return int64(d.Number("available")), nil
}

func (s *zfsStore) diskUsed(r *record) (int64, error) {
	var sum int64
	for d, err := range s.h.Descend(context.Background(), s.machine(r), zfs.Volumes, zfs.With("used")) {
		if err != nil {
			return 0, s.errs(err)
		}
		sum += int64(d.Number("used"))
	}
	return sum, nil
}

// errs says errors of package zfs in this package's sentinels.
func (s *zfsStore) errs(err error) error {
	for from, to := range map[error]error{
		zfs.ErrNotFound: ErrNotFound, zfs.ErrExists: ErrExists, zfs.ErrBusy: ErrBusy, zfs.ErrNoSpace: ErrNoSpace, zfs.ErrQuota: ErrNoSpace,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", to, err)
		}
	}
	return err
}
