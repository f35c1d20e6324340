// SPDX-License-Identifier: BSD-2-Clause

//go:build selftest && linux

package twohosts

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skepvm/skep/zfs"
	"golang.org/x/sys/unix"
)

// What runs on a host is this test binary, with a word of zfs(8) or one of the
// tests' own for its first argument. "send" and "receive" take the arguments that
// zfs(8) does, so that a test says once what both are to do.
var program = map[string]func(ctx context.Context, h *zfs.Handle, args []string) error{
	"send":    send,
	"receive": receive,
	"pool":    makePool,
	"source":  makeSource,
	"change": func(ctx context.Context, h *zfs.Handle, args []string) error {
		return change(ctx, h, args[0], args[1], args[2])
	},
	"rework": rework,
	"novel":  novel,
	"tell":   tell,
}

// work is a directory of the host's.
const work = "/var/tmp/twohosts"

const mib = 1 << 20

var key = zfs.HexKey(strings.Repeat("0123456789abcdef", 4))

func runProgram(args []string) error {
	do := program[args[0]]
	if do == nil {
		return fmt.Errorf("no such program: %q", args)
	}
	h, err := zfs.Open()
	if err != nil {
		return err
	}
	return errors.Join(do(context.Background(), h, args[1:]), h.Close())
}

// send is zfs send.
func send(ctx context.Context, h *zfs.Handle, args []string) error {
	f := flag.NewFlagSet("send", flag.ContinueOnError)
	tree, raw := f.Bool("R", false, ""), f.Bool("w", false, "")
	large, embedded, compressed := f.Bool("L", false, ""), f.Bool("e", false, ""), f.Bool("c", false, "")
	from, all, token := f.String("i", "", ""), f.String("I", "", ""), f.String("t", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *tree {
		return h.SendTree(ctx, os.Stdout, f.Arg(0), zfs.SendTreeOptions{
			From: *from + *all, Intermediate: *all != "", Raw: *raw, LargeBlocks: *large, Embedded: *embedded, Compressed: *compressed,
		})
	}
	o := zfs.SendOptions{From: *from, Raw: *raw, LargeBlocks: *large, Embedded: *embedded, Compressed: *compressed}
	if *token != "" {
		var err error
		if o.Resume, err = zfs.ParseResumeToken(*token); err != nil {
			return err
		}
	}
	return h.Send(ctx, os.Stdout, f.Arg(0), o)
}

// receive is zfs receive, with -tree for a package of streams. A property that
// cannot be set is told and no failure, as it is of zfs receive.
func receive(ctx context.Context, h *zfs.Handle, args []string) error {
	f := flag.NewFlagSet("receive", flag.ContinueOnError)
	tree, force, resumable := f.Bool("tree", false, ""), f.Bool("F", false, ""), f.Bool("s", false, "")
	_ = f.Bool("u", true, "") // ours never mounts
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	done := false
	if *tree {
		var got *zfs.ReceivedTree
		got, err = h.ReceiveTree(ctx, os.Stdin, f.Arg(0), zfs.ReceiveTreeOptions{Force: *force, Resumable: *resumable})
		done = got != nil && errors.Is(err, zfs.ErrProperty)
	} else {
		var got *zfs.Received
		got, err = h.Receive(ctx, os.Stdin, f.Arg(0), zfs.ReceiveOptions{Force: *force, Resumable: *resumable})
		done = got != nil
	}
	if err != nil && done {
		fmt.Fprintln(os.Stderr, err)
		return nil
	}
	return err
}

// makePool makes a pool on a file: pool NAME.
func makePool(ctx context.Context, h *zfs.Handle, args []string) error {
	file := filepath.Join(work, args[0])
	if err := errors.Join(os.MkdirAll(work, 0o755), os.WriteFile(file, nil, 0o600), os.Truncate(file, 2048*mib)); err != nil {
		return err
	}
	return h.CreatePool(ctx, zfs.PoolSpec{
		Name: args[0], Data: []zfs.VdevSpec{zfs.Disk(file)}, Props: zfs.Props{"cachefile": "none"}, RootProps: zfs.Props{"mountpoint": "none"},
	})
}

// makeSource makes what is sent: source DATASET. It has snapshots a, mid and b
// of a bit of everything, and below "secret" of what is encrypted.
func makeSource(ctx context.Context, h *zfs.Handle, args []string) error {
	src := args[0]
	err := errors.Join(
		h.CreateFilesystem(ctx, src, zfs.Props{"compression": "lz4", "u:top": "of the tree"}),
		h.CreateFilesystem(ctx, src+"/fs", zfs.Props{"recordsize": "1M", "quota": "512M", "u:fs": "1"}),
		h.CreateFilesystem(ctx, src+"/fs/deep", zfs.Props{"atime": "off", "dnodesize": "auto", "casesensitivity": "insensitive"}),
		h.CreateFilesystem(ctx, src+"/gone", nil),
		h.CreateVolume(ctx, src+"/vol", zfs.VolumeOptions{Size: 4 * mib, BlockSize: 16 << 10, Sparse: true, Props: zfs.Props{"u:vol": "1"}}),
		h.CreateEncryptedFilesystem(ctx, src+"-secret", key, zfs.Props{"recordsize": "64K"}),
		h.CreateFilesystem(ctx, src+"-secret/child", nil),
	)
	for _, snap := range []string{"a", "mid", "b"} {
		for _, name := range []string{"/fs", "/fs/deep", "/vol", "-secret", "-secret/child"} {
			if err == nil && snap != "mid" {
				err = change(ctx, h, src+name, snap, "")
			}
		}
		for _, root := range []string{"", "-secret"} {
			if err == nil {
				_, err = h.CreateSnapshotTree(ctx, src+root, snap, zfs.Props{"u:snap": snap})
			}
		}
		if err == nil && snap == "a" {
			err = h.Clone(ctx, src+"/fs@a", src+"/clone", zfs.Props{"u:clone": "yes"})
		}
	}
	return err
}

// rework changes more of the source than its data, and snapshots it as c: rework DATASET.
func rework(ctx context.Context, h *zfs.Handle, args []string) error {
	src := args[0]
	err := errors.Join(
		change(ctx, h, src+"/clone", "c", ""),
		h.Rename(ctx, src+"/fs/deep", src+"/moved", false),
		h.Destroy(ctx, src+"/gone", zfs.DestroyOptions{Recursive: true}),
		h.Inherit(ctx, src+"/fs", "u:fs", false),
		h.Set(ctx, src+"/vol", zfs.Props{"volsize": "6M"}),
		h.Promote(ctx, src+"/clone"),
		h.CreateFilesystem(ctx, src+"/late", zfs.Props{"u:late": "1"}),
	)
	if err == nil {
		_, err = h.CreateSnapshotTree(ctx, src, "c", nil)
	}
	return err
}

// change writes what is new in a file system or volume since its last
// snapshot, by a word that seeds it, and takes a snapshot if it is named:
// change DATASET WORD SNAPSHOT.
func change(ctx context.Context, h *zfs.Handle, name, word, snap string) error {
	rnd := rand.NewChaCha8([32]byte{word[0]})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rnd.Read(b) // it does not fail
		return b
	}
	d, err := h.Get(ctx, name)
	if err != nil {
		return err
	}
	if d.Kind == zfs.Volume {
		node, err := h.WaitVolume(ctx, name)
		if err != nil {
			return err
		}
		v, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = v.WriteAt(random(mib/4), int64(word[0]%3)*mib)
		if err = errors.Join(err, v.Sync(), v.Close()); err != nil {
			return err
		}
	} else if err := mounted(ctx, h, name, func(dir string) error { return changeFiles(dir, word, random) }); err != nil {
		return err
	}
	if snap == "" {
		return nil
	}
	return h.CreateSnapshots(ctx, []string{name + "@" + snap}, nil)
}

func changeFiles(dir, word string, random func(int) []byte) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, off int64, b []byte) error {
		f, err := os.OpenFile(at(name), os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, off)
		return errors.Join(err, f.Close())
	}
	err := errors.Join(
		os.MkdirAll(at("dir/"+word), 0o750),
		write("dir/"+word+"/new", 0, random(50<<10)),
		write("large", int64(word[0]%4)<<19, random(mib)),                          // two records of 1 MiB, or many smaller ones
		write("words", 0, bytes.Repeat([]byte("it compresses well, "+word), 20e3)), // over itself
		write("small", 0, bytes.Repeat([]byte(word), 600)),                         // embedded in its block pointer
		write("sparse", int64(word[0])<<12, []byte(word)),
		os.Symlink("../"+word, at("link-"+word)),
		unix.Setxattr(at("small"), "user.word", []byte(word), 0),
		os.Chmod(at("small"), 0o600+fs.FileMode(word[0]%8)),
	)
	// What the last one left goes, becomes shorter, or has another name.
	for _, name := range []string{"doomed", "cut", "named"} {
		if _, serr := os.Stat(at(name)); err == nil && serr == nil {
			switch name {
			case "doomed":
				err = os.Remove(at(name))
			case "cut":
				err = os.Truncate(at(name), 10e3)
			case "named":
				err = os.Rename(at(name), at("renamed-"+word))
			}
		} else if err == nil {
			err = write(name, 0, random(30<<10))
		}
	}
	return err
}

// mounted does something in a file system, or in a snapshot of one.
func mounted(ctx context.Context, h *zfs.Handle, name string, do func(dir string) error) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(work, "mnt")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if strings.Contains(name, "@") {
		err = unix.Mount(name, dir, "zfs", unix.MS_RDONLY, "")
	} else {
		err = h.Mount(ctx, name, zfs.MountOptions{At: dir})
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
	}
	return errors.Join(do(dir), unix.Unmount(dir, 0))
}

// node is what is told of a dataset or snapshot. Names in it count from the
// root of what is told of.
type node struct {
	Kind    string
	GUID    uint64            // of a snapshot: others get a new one with each receive
	Origin  string            // of a clone
	Fixed   map[string]string // properties that belong to the data
	Props   map[string]string // properties that are set here, or came with a stream
	Content string            // of a snapshot: a hash of its files, or of the volume; "" if it was not read
}

// tell prints what is at and below a dataset, with the data of the snapshots of
// these names, whose mounting is what takes the time: tell DATASET SNAPSHOT....
func tell(ctx context.Context, h *zfs.Handle, args []string) error {
	root := args[0]
	rel := func(name string) string { return strings.TrimPrefix(name, root) }
	all := map[string]node{}
	for d, err := range h.Descend(ctx, root, zfs.Filesystems, zfs.Volumes, zfs.Snapshots, zfs.With()) {
		if err != nil {
			return err
		}
		n := node{Kind: fmt.Sprint(d.Kind), Origin: rel(d.Origin), Fixed: map[string]string{}, Props: map[string]string{}}
		for p := range d.Properties() {
			switch p.Name {
			// Nothing is written to what a stream was received into.
			case "written", "volsize", "volblocksize", "casesensitivity", "normalization", "utf8only", "encryption", "keyformat":
				n.Fixed[p.Name] = p.Value
			case "encryptionroot":
				n.Fixed[p.Name] = rel(p.Value)
			default:
				if p.Source == zfs.SourceLocal || p.Source == zfs.SourceReceived {
					n.Props[p.Name] = p.Value
				}
			}
		}
		if d.Value("encryptionroot") == d.Name && d.Value("keystatus") == "unavailable" {
			if err := h.LoadKey(ctx, d.Name, key, false); err != nil {
				return err
			}
		}
		if d.Kind == zfs.Snapshot {
			n.GUID = d.GUID
			delete(n.Fixed, "written")
			if _, snap, _ := strings.Cut(d.Name, "@"); slices.Contains(args[1:], snap) {
				if n.Content, err = content(ctx, h, d); err != nil {
					return err
				}
			}
		}
		all[rel(d.Name)] = n
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// content reads all of a snapshot.
func content(ctx context.Context, h *zfs.Handle, snap *zfs.Dataset) (string, error) {
	sum := md5.New() // the fastest where a processor is emulated
	put := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(sum, f)
		return errors.Join(err, f.Close())
	}
	name, _, _ := strings.Cut(snap.Name, "@")
	of, err := h.Stat(ctx, name)
	if err != nil {
		return "", err
	}
	if of.Kind == zfs.Volume {
		pool, _, _ := strings.Cut(name, "/")
		look := fmt.Sprintf("%s/look%d", pool, os.Getpid()) // others may look at the same time
		if err := h.Clone(ctx, snap.Name, look, nil); err != nil {
			return "", err
		}
		node, err := h.WaitVolume(ctx, look)
		if err == nil {
			err = put(node)
		}
		err = errors.Join(err, destroyVolume(ctx, h, look))
		return fmt.Sprintf("%x", sum.Sum(nil)), err
	}
	n := 0
	err = mounted(ctx, h, snap.Name, func(dir string) error {
		return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := e.Info()
			if err != nil {
				return err
			}
			n++
			fmt.Fprintf(sum, "%q %v %d %d\n", strings.TrimPrefix(path, dir), st.Mode(), st.Size(), st.ModTime().UnixNano())
			word := make([]byte, 16)
			if size, err := unix.Lgetxattr(path, "user.word", word); err == nil {
				fmt.Fprintf(sum, "%q\n", word[:size])
			}
			switch {
			case e.Type().IsRegular():
				return put(path)
			case e.Type() == fs.ModeSymlink:
				to, err := os.Readlink(path)
				fmt.Fprintln(sum, to)
				return err
			}
			return nil
		})
	})
	return fmt.Sprintf("%d files, %x", n, sum.Sum(nil)), err
}

// destroyVolume destroys a volume that udev may still look at.
func destroyVolume(ctx context.Context, h *zfs.Handle, name string) (err error) {
	for range 100 {
		if err = h.Destroy(ctx, name, zfs.DestroyOptions{}); !errors.Is(err, zfs.ErrBusy) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// novel makes a dataset of what OpenZFS 2.1 does not know: novel DATASET. Below
// "names" is a file whose name is longer than it takes, below "props" nothing
// is strange but properties.
func novel(ctx context.Context, h *zfs.Handle, args []string) error {
	err := errors.Join(
		h.CreateFilesystem(ctx, args[0], nil),
		h.CreateFilesystem(ctx, args[0]+"/names", zfs.Props{"longname": "on"}),
		h.CreateFilesystem(ctx, args[0]+"/props", zfs.Props{"prefetch": "metadata", "checksum": "blake3", "quota": "512M", "u:known": "yes"}),
		change(ctx, h, args[0]+"/props", "a", "a"),
		mounted(ctx, h, args[0]+"/names", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, strings.Repeat("long ", 60)), []byte("long"), 0o600)
		}),
	)
	if err == nil {
		err = h.CreateSnapshots(ctx, []string{args[0] + "/names@a"}, nil)
	}
	return err
}
