// SPDX-License-Identifier: BSD-2-Clause

//go:build selftest && linux

package twohosts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/skepvm/skep/zfs"
)

// The hosts are testbeds, by name $SKEP_TESTBED or one of the test's own; those
// of that name that are up already stay so.
var (
	testbed string // skep-testbed
	name    string
	outside string // a directory with nothing in it, of which nothing is sent along
	older   = &host{version: "2.1"}
	newer   = &host{version: "2.3"}
)

type host struct {
	version string // of OpenZFS
	pool    string
	program string // where this test binary is there
	wasUp   bool
	made    sync.Once // what it sends
}

// command is a command that runs on the host: one of its own, or "skep" and a
// word of the program's.
func (h *host) command(args ...string) *exec.Cmd {
	if args[0] == "skep" {
		args = append([]string{h.program}, args[1:]...)
	}
	cmd := exec.Command(testbed, append([]string{"exec", "-name", name, "-os", "linux", "-zfs", h.version, "-limit", "10m"}, args...)...)
	cmd.Dir = outside
	return cmd
}

// source gives the dataset with what is sent.
func (h *host) source(t *testing.T) string {
	t.Helper()
	name := h.pool + "/src"
	h.made.Do(func() { h.must(t, "skep", "source", name) })
	return name
}

// run runs a command on the host and gives what it prints.
func (h *host) run(args ...string) (string, error) {
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("OpenZFS %s: %.200q: %w: %s", h.version, args, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (h *host) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// up boots the host, sends it the program and makes its pool.
func (h *host) up() error {
	status, err := exec.Command(testbed, "status").Output()
	if err != nil {
		return err
	}
	h.wasUp = strings.Contains(string(status), fmt.Sprintf("%s\tlinux\tOpenZFS %s\t", name, h.version))
	if out, err := exec.Command(testbed, "up", "-name", name, "-os", "linux", "-zfs", h.version).CombinedOutput(); err != nil {
		return fmt.Errorf("up: %w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	binary, err := os.Open(self)
	if err != nil {
		return err
	}
	defer binary.Close()
	h.program = fmt.Sprintf("/var/tmp/twohosts-%d", os.Getpid())
	put := h.command("sh", "-c", `cat >"$0" && chmod 755 "$0"`, h.program)
	put.Stdin = binary
	if out, err := put.CombinedOutput(); err != nil {
		return fmt.Errorf("OpenZFS %s: send the program: %w: %s", h.version, err, out)
	}
	h.pool = fmt.Sprintf("pool%d", os.Getpid())
	_, err = h.run("skep", "pool", h.pool)
	return err
}

func (h *host) down() error {
	if h.wasUp {
		_, err := h.run("zpool", "destroy", "-f", h.pool)
		return err
	}
	out, err := exec.Command(testbed, "down", "-name", name, "-os", "linux", "-zfs", h.version).CombinedOutput()
	if err != nil {
		return fmt.Errorf("down: %w: %s", err, out)
	}
	return nil
}

func TestMain(m *testing.M) {
	if os.Getenv("SKEP_IN_TESTBED") != "" {
		if err := runProgram(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := 1
	if err := withHosts(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withHosts(do func()) (err error) {
	dir, err := os.MkdirTemp("", "twohosts")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	outside, testbed = filepath.Join(dir, "empty"), filepath.Join(dir, "skep-testbed")
	if err := os.Mkdir(outside, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", testbed, "github.com/skepvm/skep/cmd/skep-testbed")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	if name = os.Getenv("SKEP_TESTBED"); name == "" {
		name = fmt.Sprintf("twohosts-%d", os.Getpid())
	}
	for _, v := range []string{"SKEP_ZFS", "GOOS", "SKEP_TESTBED_FILES"} {
		os.Unsetenv(v)
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, h := range []*host{older, newer} {
		wg.Go(func() { errs[i] = h.up() })
		defer func() { err = errors.Join(err, h.down()) }()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	do()
	return nil
}

// pair is whose programs exchange a stream: "zfs" or "skep".
type pair struct{ sends, receives string }

var pairs = []pair{{"skep", "zfs"}, {"zfs", "skep"}, {"skep", "skep"}}

// pipe is "send | receive" from host to host. With cut the connection breaks
// after so many bytes. It gives how each of the two ended.
func (p pair) pipe(from, to *host, send, receive []string, cut int64) (sent, received error) {
	s := from.command(append([]string{p.sends, "send"}, send...)...)
	if p.receives == "skep" && slices.Contains(send, "-R") {
		receive = append([]string{"-tree"}, receive...)
	}
	r := to.command(append([]string{p.receives, "receive", "-u"}, receive...)...)
	var serr, rerr bytes.Buffer
	s.Stderr, r.Stderr = &serr, &rerr
	out, err := s.StdoutPipe()
	if err != nil {
		return err, nil
	}
	in, err := r.StdinPipe()
	if err != nil {
		return err, nil
	}
	if err := r.Start(); err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		_ = in.Close()
		return err, r.Wait()
	}
	var stream io.Reader = out
	if cut > 0 {
		stream = io.LimitReader(out, cut)
	}
	// Between the hosts the checksums of what passes are looked at: they tell whose a
	// stream is that did not come whole.
	look, seen := io.Pipe()
	onTheWay := make(chan error, 1)
	go func() {
		var bad error
		for _, err := range zfs.Inspect(look) {
			bad = err
		}
		_, _ = io.Copy(io.Discard, look)
		onTheWay <- bad
	}()
	n, _ := io.Copy(in, io.TeeReader(stream, seen))
	_ = in.Close()
	_ = out.Close()
	_ = seen.Close()
	passed := "it was whole when it passed"
	if err := <-onTheWay; err != nil {
		passed = fmt.Sprintf("when it passed: %v", err)
	}
	ended := func(h *host, program string, what []string, said *bytes.Buffer, err error) error {
		if err == nil && said.Len() == 0 {
			return nil
		}
		if err == nil {
			err = errTold
		}
		return fmt.Errorf("OpenZFS %s: %s %.200q, %d bytes, %s: %w: %s", h.version, program, what, n, passed, err, strings.TrimSpace(said.String()))
	}
	received = ended(to, p.receives+" receive", receive, &rerr, r.Wait())
	return ended(from, p.sends+" send", send, &serr, s.Wait()), received
}

// errTold is of a program that had something to say and did what it was asked to.
var errTold = errors.New("done")

// exchange is a pipe through which all comes.
func (p pair) exchange(t *testing.T, from, to *host, send, receive []string) {
	t.Helper()
	if err := errors.Join(p.pipe(from, to, send, receive, 0)); err != nil {
		t.Fatal(err)
	}
}

type state map[string]node

// tell gives all that is at and below a dataset, and reads these snapshots of each.
func (h *host) tell(t *testing.T, name string, read ...string) state {
	t.Helper()
	var s state
	if err := json.Unmarshal([]byte(h.must(t, append([]string{"skep", "tell", name}, read...)...)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// below is what would be told of a dataset in it.
func (s state) below(name string) state {
	out := state{}
	for n, what := range s {
		if rest, ok := strings.CutPrefix(n, name); ok && (rest == "" || rest[0] == '/' || rest[0] == '@') {
			out[rest] = what
		}
	}
	return out
}

// upTo is what a receiver is to have of a source: the datasets that have the last
// of the snapshots, and these. Of what is no tree one dataset comes, without its
// properties.
func (s state) upTo(tree bool, snaps ...string) state {
	last := snaps[len(snaps)-1]
	out := state{}
	for name, n := range s {
		head, snap, isSnap := strings.Cut(name, "@")
		if !tree {
			n.Props = nil
		}
		_, sent := s[head+"@"+last]
		if sent && (tree || head == "") && (!isSnap || slices.Contains(snaps, snap)) {
			out[name] = n
		}
	}
	return out
}

// same holds what came against what is to be there.
func same(t *testing.T, got, want state) {
	t.Helper()
	if len(want) == 0 {
		t.Fatal("nothing to compare")
	}
	read := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[name]
		w := want[name]
		if w.Props == nil {
			g.Props = nil
		}
		if g.Content == "" {
			w.Content = ""
		} else {
			read++
		}
		if gs, ws := fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", w); !ok {
			t.Errorf("%q did not come", name)
		} else if gs != ws {
			t.Errorf("%q differs:\ncame %s\nsent %s", name, gs, ws)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			t.Errorf("%q came too", name)
		}
	}
	if read == 0 {
		t.Error("no content was read")
	}
}

// names lists all of a pool.
func (h *host) names(t *testing.T, pool string) string {
	t.Helper()
	return h.must(t, "zfs", "list", "-H", "-r", "-t", "all", "-o", "name,guid,receive_resume_token", pool)
}

// What a host or its pool does not know is refused in words, and leaves nothing.
func TestRefused(t *testing.T) {
	for _, d := range [][2]*host{{older, newer}, {newer, older}} {
		t.Run(fmt.Sprintf("%s to %s", d[0].version, d[1].version), func(t *testing.T) {
			t.Parallel()
			refused(t, d[0], d[1])
		})
	}
}

func refused(t *testing.T, from, to *host) {
	src := from.source(t)
	// A pool of the first version that had features at all, with none of them.
	bare := to.pool + "bare"
	file := work + "/" + bare
	to.must(t, "sh", "-c", "truncate -s 128M "+file+" && zpool create -d -O mountpoint=none -o cachefile=none "+bare+" "+file)
	defer to.must(t, "zpool", "destroy", bare)
	type refusal struct {
		what  string
		send  []string
		into  string
		lacks string // what the pool lacks, which ours names
	}
	cases := []refusal{
		{"large blocks", []string{"-L", src + "/fs@a"}, bare, "feature@large_blocks"},
		{"raw tree", []string{"-R", "-w", src + "-secret@a"}, bare, "feature@encryption"},
	}
	if from == newer {
		from.must(t, "skep", "novel", from.pool+"/novel")
		names := from.pool + "/novel/names@a"
		cases = append(cases,
			refusal{"long names", []string{names}, to.pool, "feature@longname"},
			refusal{"tree with long names", []string{"-R", names}, to.pool, "feature@longname"})
	}
	for _, c := range cases {
		for _, p := range pairs {
			t.Run(fmt.Sprintf("%s/%s to %s", c.what, p.sends, p.receives), func(t *testing.T) {
				before := to.names(t, c.into)
				_, err := p.pipe(from, to, c.send, []string{c.into + "/new"}, 0)
				if err == nil || errors.Is(err, errTold) {
					t.Fatalf("it came: %v", err)
				}
				t.Log(err)
				// A module is too old where its newest pool does not take it.
				tooOld := strings.Contains(err.Error(), zfs.ErrModuleTooOld.Error())
				if p.receives == "skep" && (!strings.Contains(err.Error(), c.lacks) || tooOld != (c.into == to.pool)) {
					t.Errorf("it does not say that %s lacks %s", c.into, c.lacks)
				}
				if after := to.names(t, c.into); after != before {
					t.Errorf("it left\n%s\nbefore\n%s", after, before)
				}
			})
		}
	}
	if from != newer {
		return
	}
	// A property that the older does not know is told, and all else comes.
	novel := from.tell(t, from.pool+"/novel/props", "a").upTo(true, "a")
	root := novel[""]
	root.Props = maps.Clone(root.Props)
	for _, unknown := range []string{"prefetch", "checksum"} {
		delete(root.Props, unknown)
	}
	novel[""] = root
	for i, p := range pairs {
		t.Run(fmt.Sprintf("properties/%s to %s", p.sends, p.receives), func(t *testing.T) {
			target := fmt.Sprintf("%s/props%d", to.pool, i)
			sent, received := p.pipe(from, to, []string{"-R", from.pool + "/novel/props@a"}, []string{target}, 0)
			if sent != nil || received != nil && !errors.Is(received, errTold) && p.receives == "skep" {
				t.Fatal(sent, received)
			}
			t.Log(received)
			if received == nil || !strings.Contains(received.Error(), "prefetch") || !strings.Contains(received.Error(), "checksum") {
				t.Errorf("it does not tell of prefetch and checksum: %v", received)
			}
			same(t, to.tell(t, target, "a"), novel)
		})
	}
}

// Two hosts send each other streams of every kind, in both directions.
func TestStreams(t *testing.T) {
	for _, d := range [][2]*host{{older, newer}, {newer, older}} {
		t.Run(fmt.Sprintf("%s to %s", d[0].version, d[1].version), func(t *testing.T) {
			t.Parallel()
			direction(t, d[0], d[1])
		})
	}
}

func direction(t *testing.T, from, to *host) {
	src, into := from.source(t), to.pool+"/into"
	to.must(t, "zfs", "create", into)
	count := 0
	each := func(what string, do func(t *testing.T, p pair, target string)) {
		for _, p := range pairs {
			count++
			target := fmt.Sprintf("%s/%d", into, count)
			t.Run(fmt.Sprintf("%s/%s to %s", what, p.sends, p.receives), func(t *testing.T) { do(t, p, target) })
		}
	}
	plain, secret := from.tell(t, src, "a", "b"), from.tell(t, src+"-secret", "a", "b")
	for _, k := range []struct {
		what string
		of   string
		is   state
		how  []string
		back bool // what the receiver adds goes back to the sender
	}{
		{"plain", "/fs", plain.below("/fs"), nil, false},
		{"large blocks, compressed", "/fs", plain.below("/fs"), []string{"-L", "-e", "-c"}, true},
		{"volume", "/vol", plain.below("/vol"), []string{"-c"}, false},
		{"raw", "-secret", secret, []string{"-w"}, true},
	} {
		each(k.what, func(t *testing.T, p pair, target string) {
			p.exchange(t, from, to, append(k.how, src+k.of+"@a"), []string{target})
			p.exchange(t, from, to, append(k.how, "-i", "@a", src+k.of+"@b"), []string{target})
			same(t, to.tell(t, target, "a", "b"), k.is.upTo(false, "a", "b"))
			if !k.back {
				return
			}
			to.must(t, "skep", "change", target, "back", "back")
			p.exchange(t, to, from, append(k.how, "-i", "@b", target+"@back"), []string{src + k.of})
			same(t, from.tell(t, src+k.of, "back").upTo(false, "b", "back"), to.tell(t, target, "back").upTo(false, "b", "back"))
			from.must(t, "zfs", "rollback", "-r", src+k.of+"@b")
		})
	}
	each("raw tree", func(t *testing.T, p pair, target string) {
		p.exchange(t, from, to, []string{"-R", "-w", src + "-secret@a"}, []string{target})
		p.exchange(t, from, to, []string{"-R", "-w", "-I", "@a", src + "-secret@b"}, []string{target})
		same(t, to.tell(t, target, "b"), secret.upTo(true, "a", "mid", "b"))
	})
	for _, k := range []struct {
		what string
		of   string
		is   state
		how  []string
	}{
		{"cut", "/fs", plain.below("/fs"), []string{"-L"}},
		{"raw cut", "-secret", secret, []string{"-w"}},
	} {
		each(k.what, func(t *testing.T, p pair, target string) {
			const half = mib/2 + 4321
			before := to.names(t, into)
			if _, err := p.pipe(from, to, append(k.how, src+k.of+"@a"), []string{target}, half); err == nil {
				t.Fatal("what was cut came")
			}
			if after := to.names(t, into); after != before {
				t.Errorf("what was cut left\n%s\nbefore\n%s", after, before)
			}
			for _, step := range [][]string{{src + k.of + "@a"}, {"-i", "@a", src + k.of + "@b"}} {
				if _, err := p.pipe(from, to, append(k.how, step...), []string{"-s", target}, half); err == nil {
					t.Fatal("what was cut came")
				}
				token := to.must(t, "zfs", "get", "-Hp", "-o", "value", "receive_resume_token", target)
				p.exchange(t, from, to, []string{"-t", token}, []string{"-s", target})
			}
			same(t, to.tell(t, target, "b"), k.is.upTo(false, "a", "b"))
		})
	}
	trees := map[pair]string{}
	each("tree", func(t *testing.T, p pair, target string) {
		p.exchange(t, from, to, []string{"-R", src + "@a"}, []string{target})
		p.exchange(t, from, to, []string{"-R", "-L", "-c", "-I", "@a", src + "@b"}, []string{target})
		same(t, to.tell(t, target, "b"), plain.upTo(true, "a", "mid", "b"))
		trees[p] = target
	})
	if t.Failed() {
		return
	}
	from.must(t, "skep", "rework", src)
	plain = from.tell(t, src, "c")
	each("reworked tree", func(t *testing.T, p pair, _ string) {
		p.exchange(t, from, to, []string{"-R", "-I", "@b", src + "@c"}, []string{"-F", trees[p]})
		same(t, to.tell(t, trees[p], "c"), plain.upTo(true, "a", "mid", "b", "c"))
	})
}
