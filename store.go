// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// store keeps machines and images. Its methods may be called for different
// machines at once. Whatever a method leaves when the process dies in it, load
// cleans, or the record that was written before says what to clean.
type store interface {
	// load gives the records of all machines, and cleans what is no machine's.
	load(ctx context.Context) ([]*record, error)
	// create writes the record of a new machine and makes its directory.
	create(ctx context.Context, r *record) error
	// save replaces a record: after a crash it is the old one or the new.
	save(ctx context.Context, r *record) error
	// remove takes a machine away, its disk, files, snapshots and record, as one:
	// after a crash load finds it whole or not at all. One that is not there is
	// no error.
	remove(ctx context.Context, r *record) error
	// dir is the machine's directory of small files.
	dir(r *record) string

	// cloneImage makes a machine's disk of a warm image, grown to Spec.Disk.
	cloneImage(ctx context.Context, r *record, img warmImage) error
	// cloneDisk makes it of another machine's disk or snapshot.
	cloneDisk(ctx context.Context, r *record, from *record) error
	// openDisk opens it for a worker.
	openDisk(ctx context.Context, r *record) (*os.File, error)
	// dropDisk takes away what cloneImage or cloneDisk made or began to.
	dropDisk(ctx context.Context, r *record) error
	// diskUsed is what the disk and its snapshots take of the store, in bytes.
	diskUsed(r *record) (int64, error)
	// free is what the store has left, in bytes.
	free() (int64, error)
	// images is the directory in which package image keeps its warm images.
	images() string

	snapshot(ctx context.Context, r *record, name string) error
	snapshots(ctx context.Context, r *record) ([]Snapshot, error)
	removeSnapshot(ctx context.Context, r *record, name string) error
	rollback(ctx context.Context, r *record, name string) error

	close() error
}

// warmImage is an image that is ready to be cloned.
type warmImage struct {
	ref    imageRef
	disk   string // path of the raw disk
	kernel string // path; empty: the image boots by itself
	initrd string // path; may be empty
	size   int64  // of the disk, in bytes
}

// openStore opens the store that Config.Store names and takes its lock.
func openStore(ctx context.Context, name string, fault func(string)) (store, error) {
	kind, rest, ok := strings.Cut(name, ":")
	switch {
	case ok && kind == "dir":
		if !filepath.IsAbs(rest) {
			return nil, invalid("Store", name, "want an absolute path after dir:")
		}
		s, err := openDirStore(filepath.Clean(rest), fault)
		if err != nil {
			return nil, err
		}
		return s, nil
	case ok && kind == "zfs":
		s, err := openZFSStore(ctx, rest, fault)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return nil, invalid("Store", name, "want dir:/path or zfs:pool/dataset")
}

// The small files in a machine's directory.
const (
	fileSeed    = "seed.iso"
	fileConsole = "console.log"
	fileWorker  = "worker.log"
	fileExit    = "exit.json"
	fileLock    = "worker.lock"
	fileKernel  = "kernel"
	fileInitrd  = "initrd"
)
