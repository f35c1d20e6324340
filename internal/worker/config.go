// SPDX-License-Identifier: BSD-2-Clause

package worker

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/skepvm/skep/internal/worker/ctl"
)

// Config is what the daemon tells a worker, once. Descriptors travel beside
// it, in the order of Files.
type Config struct {
	Machine  string           `json:"machine"` // its ID
	Name     string           `json:"name"`    // for people
	CPUs     int              `json:"cpus"`
	Memory   int64            `json:"memory"`
	Cmdline  string           `json:"cmdline,omitempty"`
	MAC      net.HardwareAddr `json:"mac,omitempty"`
	MTU      int              `json:"mtu,omitempty"`
	Owner    uint32           `json:"owner"` // user id that may use the control socket, beside root
	Began    time.Time        `json:"began"`
	Sandbox  bool             `json:"sandbox"`
	UID      uint32           `json:"uid,omitempty"` // to become, if not 0
	Files    map[string]int   `json:"files"`         // descriptor by name
	LogLimit int64            `json:"log_limit"`     // bytes of FileLog
}

// The names of Config.Files.
const (
	FileListen = "listen" // the control socket, listening
	FileLock   = "lock"   // flock(2) held through it for as long as the worker lives
	FileExit   = "exit"   // ctl.Exit goes here
	FileLog    = "log"    // what the guest writes to its first serial line
	FileDisk   = "disk"
	FileSeed   = "seed"
	FileKernel = "kernel"
	FileInitrd = "initrd"
	FileTap    = "tap"
	FileKVM    = "kvm"
	FileUser   = "user" // that its UID is no other's; held for as long as the worker lives
)

// maxConfig bounds the configuration's JSON.
const maxConfig = 32 << 10

// goByte is the daemon's word to go on.
const goByte = 'G'

func readConfig(r io.Reader) (Config, error) {
	var cfg Config
	if err := ctl.ReadFrame(r, &cfg); err != nil {
		return cfg, fmt.Errorf("read configuration: %w", err)
	}
	for _, name := range []string{FileListen, FileLock, FileExit, FileLog} {
		if cfg.Files[name] < firstFile {
			return cfg, fmt.Errorf("configuration lacks the file %q", name)
		}
	}
	return cfg, nil
}

// File takes over a descriptor; nil if the daemon gave none of that name.
func (c *Config) File(name string) *os.File {
	fd, ok := c.Files[name]
	if !ok {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}

// WriteExit writes a worker's last word with one write and syncs it, so that a
// reader finds all of it or, by ReadExit's check, none.
func WriteExit(f *os.File, e ctl.Exit) error {
	b, err := json.Marshal(e.Clip())
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(append(b, '\n'), 0); err != nil {
		return err
	}
	return f.Sync()
}

// ReadExit reads the last word of the run that began at began; ok is false if
// the worker died without one.
func ReadExit(path, machine string, began time.Time) (e ctl.Exit, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return e, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil || len(b) == 0 || b[len(b)-1] != '\n' || json.Unmarshal(b, &e) != nil {
		return ctl.Exit{}, false
	}
	if e.Machine != machine || e.Time.Before(began) {
		return ctl.Exit{}, false
	}
	return e, true
}
