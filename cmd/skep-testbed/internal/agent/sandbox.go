// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sandbox is where one session runs: its working directory and all the
// processes that it started.
type sandbox struct {
	server  *server
	dir     string // working directory as the session sees it
	backing string // where it really lies, if not there
	owned   bool   // the directory is the session's own, not the system's
	files   []string
	gone    chan struct{} // closed when the command outside has left

	sys sandboxSys
}

// path maps a path as the session sees it to where it really lies.
func (b *sandbox) path(p string) string {
	if b.backing == "" {
		return p
	}
	if p == b.dir {
		return b.backing
	}
	if rel, ok := strings.CutPrefix(p, strings.TrimSuffix(b.dir, "/")+"/"); ok {
		return filepath.Join(b.backing, rel)
	}
	return p
}

// own reports whether a path is the machine's own file, which no session's may
// replace: it was there before the first session, by more than a file system may
// round its times.
func (s *server) own(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && time.Unix(st.Ctim.Unix()).Before(s.began.Add(-2*time.Second))
}

// comes notes a file that is being sent, to be removed afterwards. Two sessions
// of one binary send it to the same place: the last one removes it.
func (b *sandbox) comes(real string) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	b.files = append(b.files, real)
	b.server.sent[real]++
}

func (b *sandbox) removeFiles() {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	for _, f := range b.files {
		if b.server.sent[f]--; b.server.sent[f] <= 0 {
			delete(b.server.sent, f)
			os.Remove(f)
		}
	}
	b.files = nil
}

// claimDir makes the working directory if it is missing. Where it cannot be
// private to the session, one that others use is waited for.
func (s *server) claimDir(dir string) (*sandbox, error) {
	for {
		b, err := s.tryDir(dir)
		if b != nil || err != nil {
			return b, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *server) tryDir(dir string) (*sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.made[dir] {
		if _, err := os.Stat(dir); err == nil {
			return &sandbox{server: s, dir: dir}, nil // the system's own
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		s.made[dir] = true
	}
	if !privateDirs && s.busy[dir] {
		return nil, nil
	}
	s.busy[dir] = true
	return &sandbox{server: s, dir: dir, owned: true}, nil
}

func (s *server) releaseDir(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, dir)
}
