// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alone runs f on a thread that is thrown away after it. The first thread of a
// process is none: it stays, and /proc/self shows what it sees.
func alone(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			alone(f) // on another, as this one is taken
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	<-done
}

// nobody takes the thread's privileges.
func nobody(t *testing.T) {
	const id = 65534
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of the thread, not of the process
		if _, _, errno := unix.RawSyscall(call, id, id, id); errno != 0 {
			t.Error(errno)
		}
	}
}

func TestRealErrorPermission(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	file := files(t, 1, 128*mib)[0]
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/a", Props{"mountpoint": "/var/tmp/mnt-" + p}), h.CreateSnapshots(ctx, []string{p + "/a@s"}, nil),
		h.CreateEncryptedFilesystem(ctx, p+"/e", RawKey(randomBytes(32)), nil), h.CreateVolume(ctx, p+"/v", VolumeOptions{Size: mib, Sparse: true})); err != nil {
		t.Fatal(err)
	}
	alone(func() {
		nobody(t)
		for what, do := range map[string]func() error{
			"create":            func() error { return h.CreateFilesystem(ctx, p+"/x", nil) },
			"create a volume":   func() error { return h.CreateVolume(ctx, p+"/x", VolumeOptions{Size: mib}) },
			"set":               func() error { return h.Set(ctx, p+"/a", Props{"atime": "off"}) },
			"inherit":           func() error { return h.Inherit(ctx, p+"/a", "atime", false) },
			"snapshot":          func() error { return h.CreateSnapshots(ctx, []string{p + "/a@x"}, nil) },
			"bookmark":          func() error { return h.CreateBookmarks(ctx, map[string]string{p + "/a#x": p + "/a@s"}) },
			"clone":             func() error { return h.Clone(ctx, p+"/a@s", p+"/x", nil) },
			"rename":            func() error { return h.Rename(ctx, p+"/a", p+"/x", false) },
			"rollback":          func() error { return h.Rollback(ctx, p+"/a@s", false) },
			"hold":              func() error { return h.Hold(ctx, "x", []string{p + "/a@s"}, false) },
			"send":              func() error { return h.Send(ctx, io.Discard, p+"/a@s", SendOptions{}) },
			"destroy":           func() error { return h.Destroy(ctx, p+"/a", DestroyOptions{Recursive: true}) },
			"destroy snapshots": func() error { return h.DestroySnapshots(ctx, []string{p + "/a@s"}, false) },
			"unload key":        func() error { return h.UnloadKey(ctx, p+"/e") },
			"mount":             func() error { return h.Mount(ctx, p+"/a", MountOptions{}) },
			"program":           func() error { _, err := h.Run(ctx, p, "return 1", ProgramOptions{}); return err },
			"history":           func() error { _, err := h.PoolHistory(ctx, p); return err },
			"scrub":             func() error { return h.ScrubPool(ctx, p, Start) },
			"set pool":          func() error { return h.SetPool(ctx, p, Props{"comment": "x"}) },
			"export":            func() error { return h.ExportPool(ctx, p, false) },
			"destroy pool":      func() error { return h.DestroyPool(ctx, p) },
			"create pool": func() error {
				return h.CreatePool(ctx, PoolSpec{Name: p + "x", Data: []VdevSpec{Disk(file)}})
			},
		} {
			wantKind(t, what, p, do(), ErrPermission)
		}
		// What everyone may.
		if d, err := h.Get(ctx, p+"/a"); err != nil || d.Value("used") == "" {
			t.Error(d, err)
		}
		if st, err := h.Pool(ctx, p); err != nil || st.Health != "ONLINE" {
			t.Error(err)
		}
	})
}

// inDev runs f where /dev is a directory of its own with this in place of /dev/zfs.
func inDev(t *testing.T, mode, major, minor uint32, f func()) {
	alone(func() {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=755")); err != nil {
			t.Error(err)
			return
		}
		if mode != 0 {
			if err := unix.Mknod("/dev/zfs", mode, int(unix.Mkdev(major, minor))); err != nil {
				t.Error(err)
				return
			}
		}
		f()
	})
}

func TestRealErrorModule(t *testing.T) {
	try := func(want error) func() {
		return func() {
			h, err := Open()
			if err == nil {
				_ = h.Close()
			}
			wantKind(t, "open", "/dev/zfs", err, want)
			_, err = Get(t.Context(), "tank")
			wantKind(t, "get", "/dev/zfs", err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/zfs", &st); err != nil {
		t.Fatal(err)
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	inDev(t, 0, 0, 0, try(ErrNoModule))
	inDev(t, unix.S_IFCHR|0o666, 10, 254, try(ErrNoModule)) // a node, and no driver behind it
	inDev(t, unix.S_IFCHR|0o600, major, minor, func() {
		nobody(t)
		try(ErrPermission)()
	})
	h := open(t)
	if _, err := h.Pools(t.Context()); err != nil {
		t.Error(err)
	}
}

// loop makes a block device of a file, and limits its size in bytes at will, 0
// for none: I/O beyond it fails.
func loop(t *testing.T, file string) (name string, limit func(bytes uint64) error) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	must(err)
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	must(err)
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	must(err)
	name = fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	must(err)
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
		_ = dev.Close()
	})
	must(unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd())}))
	return name, func(bytes uint64) error {
		return unix.IoctlLoopSetStatus64(int(dev.Fd()), &unix.LoopInfo64{Sizelimit: bytes})
	}
}

// A pool whose device fails is suspended, and comes back.
func TestRealErrorSuspended(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	disk, limit := loop(t, files(t, 1, 256*mib)[0])
	p := testPool(t, h, 0, func(s *PoolSpec) {
		s.Data, s.Props["failmode"] = []VdevSpec{Disk(disk)}, "wait"
	})
	if err := errors.Join(h.CreateFilesystem(ctx, p+"/a", nil), h.CreateSnapshots(ctx, []string{p + "/a@s"}, nil),
		h.CreateEncryptedFilesystem(ctx, p+"/e", RawKey(randomBytes(32)), nil), h.Mount(ctx, p, MountOptions{})); err != nil {
		t.Fatal(err)
	}
	mend := func() error {
		return errors.Join(limit(0), h.Clear(context.WithoutCancel(ctx), p, ""))
	}
	t.Cleanup(func() { _ = mend() }) // whatever fails: it must not stay so
	if err := limit(4096); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile("/var/tmp/mnt-"+p+"/data", randomBytes(mib), 0o600) }()
	suspended := func() *Pool {
		st, err := h.Pool(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	for i := 0; !suspended().Suspended; i++ {
		if i == 600 {
			t.Fatal("the pool is not suspended")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if st := suspended(); st.Health != "SUSPENDED" {
		t.Error(st.Health)
	}
	// None may hang: each has its time.
	try := func(what string, do func() error) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- do() }()
		select {
		case err := <-done:
			wantKind(t, what, p, err, ErrSuspended)
		case <-time.After(30 * time.Second):
			t.Errorf("%s hangs", what)
		}
	}
	try("get", func() error { _, err := h.Get(ctx, p+"/a"); return err })
	try("list", func() error {
		for _, err := range h.Descend(ctx, p) {
			return err
		}
		return nil
	})
	try("create", func() error { return h.CreateFilesystem(ctx, p+"/x", nil) })
	try("create a volume", func() error { return h.CreateVolume(ctx, p+"/x", VolumeOptions{Size: mib}) })
	try("set", func() error { return h.Set(ctx, p+"/a", Props{"atime": "off"}) })
	try("snapshot", func() error { return h.CreateSnapshots(ctx, []string{p + "/a@x"}, nil) })
	try("clone", func() error { return h.Clone(ctx, p+"/a@s", p+"/x", nil) })
	try("rename", func() error { return h.Rename(ctx, p+"/a", p+"/x", false) })
	try("rollback", func() error { return h.Rollback(ctx, p+"/a@s", false) })
	try("hold", func() error { return h.Hold(ctx, "x", []string{p + "/a@s"}, false) })
	try("send", func() error { return h.Send(ctx, io.Discard, p+"/a@s", SendOptions{}) })
	try("destroy", func() error { return h.Destroy(ctx, p+"/a", DestroyOptions{Recursive: true}) })
	try("destroy snapshots", func() error { return h.DestroySnapshots(ctx, []string{p + "/a@s"}, false) })
	try("unload key", func() error { return h.UnloadKey(ctx, p+"/e") })
	try("mount", func() error { return h.Mount(ctx, p+"/a", MountOptions{}) })
	try("unmount", func() error { return h.Unmount(ctx, p, false) })
	try("program", func() error { _, err := h.Run(ctx, p, "return 1", ProgramOptions{}); return err })
	try("sync", func() error { return h.Sync(ctx, p) })
	try("scrub", func() error { return h.ScrubPool(ctx, p, Start) })
	try("wait", func() error { return h.WaitPool(ctx, p, Scanned, nil) })
	try("set pool", func() error { return h.SetPool(ctx, p, Props{"comment": "x"}) })
	try("export", func() error { return h.ExportPool(ctx, p, false) })
	try("destroy pool", func() error { return h.DestroyPool(ctx, p) })
	compareVdevs(t, suspended())
	if out := tool(t, "zpool", "list", "-H", "-o", "health", p); out != "SUSPENDED" {
		t.Error(out)
	}
	if err := mend(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-written:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the write does not go on")
	}
	comparePool(t, h, p)
	if err := h.CreateFilesystem(ctx, p+"/x", nil); err != nil {
		t.Error(err)
	}
}

// A device that goes from a pool that runs: the pool goes on with the other,
// and says which it lacks until it is back.
func TestRealDeviceGone(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	disk, limit := loop(t, files(t, 1, 128*mib)[0])
	other := files(t, 1, 128*mib)[0]
	p := testPool(t, h, 0, func(s *PoolSpec) { s.Data = []VdevSpec{Mirror(other, disk)} })
	device := func() *Vdev {
		t.Helper()
		v, err := h.vdev(ctx, "status", p, disk)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := limit(4096); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = limit(0) })
	for i := 0; device().State == VdevOnline; i++ {
		if i == 100 {
			t.Fatal("nobody saw that the device is gone")
		}
		if err := errors.Join(h.CreateFilesystem(ctx, fmt.Sprintf("%s/d%d", p, i), nil), h.Sync(ctx, p)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	comparePool(t, h, p)
	wantKind(t, "online", disk, h.Online(ctx, p, disk, false), ErrUnavailable)
	comparePool(t, h, p)
	if err := limit(0); err != nil {
		t.Fatal(err)
	}
	if err := h.Clear(ctx, p, disk); err != nil {
		t.Error(err)
	}
	wctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := h.WaitPool(wctx, p, Scanned, nil); err != nil {
		t.Fatal(err)
	}
	if v := device(); v.State != VdevOnline || v.WriteErrors != 0 {
		t.Errorf("%+v", v)
	}
	comparePool(t, h, p)
}
