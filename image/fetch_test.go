// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// server serves content, and misbehaves as its fields say.
type server struct {
	content   []byte
	etag      string // "": none
	cutAfter  int    // bytes of an answer, after which the connection breaks; 0: never
	cuts      int    // how many answers are cut; -1: all
	noRanges  bool   // Range is not looked at
	statuses  []int  // answered first, one a request
	stall     bool   // nothing comes after cutAfter bytes, until the client goes
	noLength  bool
	lieLength int

	mu       sync.Mutex
	requests []string // the Range header of each
	sent     int
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Header.Get("Range"))
	if len(s.statuses) > 0 {
		code := s.statuses[0]
		s.statuses = s.statuses[1:]
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(code)
		return
	}
	body, code := s.content, http.StatusOK
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	if spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !s.noRanges && r.Header.Get("If-Range") == s.etag {
		from, err := strconv.Atoi(strings.TrimSuffix(spec, "-"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if from >= len(body) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(body)))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		body, code = body[from:], http.StatusPartialContent
	}
	if !s.noLength {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)+s.lieLength))
	}
	w.WriteHeader(code)
	if s.cutAfter > 0 && s.cuts != 0 && len(body) > s.cutAfter {
		s.cuts--
		n, _ := w.Write(body[:s.cutAfter])
		s.sent += n
		_ = http.NewResponseController(w).Flush()
		if s.stall {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	n, _ := w.Write(body)
	s.sent += n
}

// seen is what the server did so far.
func (s *server) seen() (requests []string, sent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...), s.sent
}

func serve(t *testing.T, s *server) (url string) {
	t.Helper()
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return h.URL + "/image"
}

func randomDisk(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	b[0] = 0 // no magic of anything
	return b
}

func warmURL(ctx context.Context, s *Store, url string, sum Checksum) (*Warmed, error) {
	return s.Warm(ctx, Image{Name: "x", Source: url, Checksum: sum, Format: FormatRaw}, nil)
}

func wantDisk(t *testing.T, w *Warmed, err error, want []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(w.Path)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("another disk (%d bytes, want %d): %v", len(got), len(want), err)
	}
}

func TestFetchGoesOnAfterCuts(t *testing.T) {
	disk := randomDisk(1 << 20)
	for name, srv := range map[string]*server{
		"whole":           {content: disk, etag: `"a"`},
		"cut 9 times":     {content: disk, etag: `"a"`, cutAfter: 100000, cuts: -1},
		"no ranges":       {content: disk, etag: `"a"`, cutAfter: 900000, cuts: 2, noRanges: true},
		"no validator":    {content: disk, cutAfter: 900000, cuts: 2},
		"weak validator":  {content: disk, etag: `W/"a"`, cutAfter: 900000, cuts: 2},
		"no length":       {content: disk, etag: `"a"`, noLength: true},
		"errors first":    {content: disk, etag: `"a"`, statuses: []int{503, 429}},
		"errors and cuts": {content: disk, etag: `"a"`, cutAfter: 300000, cuts: -1, statuses: []int{500, 408}},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, nil)
			w, err := warmURL(t.Context(), s, serve(t, srv), sha(disk))
			wantDisk(t, w, err, disk)
			if left := fmt.Sprint(entries(t, s)); left != "[x.json x.raw]" {
				t.Errorf("the store holds %s", left)
			}
			if requests, sent := srv.seen(); srv.etag == `"a"` && !srv.noRanges && sent != len(disk) {
				t.Errorf("%d bytes were sent for %d: ranges %q", sent, len(disk), requests)
			}
		})
	}
}

// TestFetchBySHA512: Debian publishes no other sums.
func TestFetchBySHA512(t *testing.T) {
	disk := randomDisk(1 << 20)
	sum := Checksum(fmt.Sprintf("sha512:%x", sha512.Sum512(disk)))
	for name, srv := range map[string]*server{
		"whole": {content: disk, etag: `"a"`},
		"cut":   {content: disk, etag: `"a"`, cutAfter: 400000, cuts: -1},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, nil)
			w, err := warmURL(t.Context(), s, serve(t, srv), sum)
			wantDisk(t, w, err, disk)
		})
	}
}

func TestFetchGivesUp(t *testing.T) {
	disk := randomDisk(1 << 20)
	for name, c := range map[string]struct {
		srv      *server
		sum      Checksum
		want     error
		requests int // at most
	}{
		"missing":         {&server{statuses: []int{404, 404, 404, 404}}, sha(disk), ErrNotFound, 1},
		"gone":            {&server{statuses: []int{410, 410}}, sha(disk), ErrNotFound, 1},
		"forbidden":       {&server{statuses: []int{403, 403}}, sha(disk), nil, 1},
		"always 500":      {&server{statuses: []int{500, 500, 500, 500, 500, 500}}, sha(disk), nil, 3},
		"other content":   {&server{content: disk, etag: `"a"`}, sha(disk[1:]), ErrChecksum, 1},
		"other sha512":    {&server{content: disk}, "sha512:" + Checksum(strings.Repeat("00", 64)), ErrChecksum, 1},
		"too large":       {&server{content: make([]byte, 65<<20)}, sha(disk), ErrTooLarge, 1},
		"endless":         {&server{content: make([]byte, 65<<20), noLength: true}, sha(disk), ErrTooLarge, 1},
		"partial content": {&server{statuses: []int{206, 206}}, sha(disk), nil, 1},
		"nothing":         {&server{content: nil}, NoChecksum, ErrCorrupt, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, nil)
			w, err := warmURL(t.Context(), s, serve(t, c.srv), c.sum)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || w != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			if left := entries(t, s); len(left) != 0 {
				t.Errorf("left %v", left)
			}
			if requests, _ := c.srv.seen(); len(requests) > c.requests {
				t.Errorf("%d requests, at most %d", len(requests), c.requests)
			}
		})
	}
}

func TestFetchFromAServerThatStalls(t *testing.T) {
	disk := randomDisk(1 << 20)
	srv := &server{content: disk, etag: `"a"`, cutAfter: 400000, cuts: 2, stall: true}
	s := testStore(t, func(o *Options) { o.Stall = 50 * time.Millisecond })
	w, err := warmURL(t.Context(), s, serve(t, srv), sha(disk))
	wantDisk(t, w, err, disk)
	if _, sent := srv.seen(); sent != len(disk) {
		t.Errorf("%d bytes were sent for %d", sent, len(disk))
	}
}

// TestFetchGoesOnInAnotherProcess: what an interrupted Warm brought is asked for
// no more.
func TestFetchGoesOnInAnotherProcess(t *testing.T) {
	disk := randomDisk(1 << 20)
	srv := &server{content: disk, etag: `"a"`, cutAfter: 400000, cuts: 1, stall: true}
	url := serve(t, srv)
	dir := t.TempDir()
	o := fastOptions()
	first, err := OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = first.Warm(ctx, Image{Name: "x", Source: url, Checksum: sha(disk), Format: FormatRaw}, func(p Progress) {
		if p.Stage == StageFetch && p.Done >= 400000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	second, err := OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w, err := warmURL(t.Context(), second, url, sha(disk))
	wantDisk(t, w, err, disk)
	if requests, sent := srv.seen(); fmt.Sprint(requests) != "[ bytes=400000-]" || sent != len(disk) {
		t.Errorf("ranges %q, %d bytes sent", requests, sent)
	}
}

// TestFetchOfAFileThatChanged: If-Range keeps two files from being mixed, and a
// part that was spoilt is thrown away once.
func TestFetchOfAFileThatChanged(t *testing.T) {
	disk := randomDisk(1 << 20)
	other := append([]byte{0}, disk[:1<<20-1]...)
	for name, spoil := range map[string]func(t *testing.T, part string){
		"other tag": func(t *testing.T, part string) {
			if err := writeState(part, partState{URL: readState(part).URL, Validator: `"old"`}); err != nil {
				t.Fatal(err)
			}
		},
		"spoilt part":  func(t *testing.T, part string) { write(t, part, other[:300000]) },
		"longer part":  func(t *testing.T, part string) { write(t, part, append(disk[:len(disk):len(disk)], 1, 2, 3)) },
		"whole part":   func(t *testing.T, part string) { write(t, part, disk) },
		"no state":     func(t *testing.T, part string) { write(t, part+".state", nil) },
		"broken state": func(t *testing.T, part string) { write(t, part+".state", []byte(`{"url":7`)) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := &server{content: disk, etag: `"a"`, cutAfter: 400000, cuts: 3}
			s := testStore(t, func(o *Options) { o.Tries = 1 })
			url := serve(t, srv)
			ctx, cancel := context.WithCancel(t.Context())
			_, err := s.Warm(ctx, Image{Name: "x", Source: url, Checksum: sha(disk), Format: FormatRaw}, func(p Progress) {
				if p.Done >= 400000 {
					cancel()
				}
			})
			cancel()
			if err == nil {
				t.Fatal("it was not interrupted")
			}
			parts, err := filepath.Glob(filepath.Join(strings.ReplaceAll(s.dir, "[", `\[`), "*.part"))
			if err != nil || len(parts) != 1 {
				t.Fatal(parts, err)
			}
			spoil(t, parts[0])
			srv.mu.Lock()
			srv.cuts = 0
			srv.mu.Unlock()
			w, err := warmURL(t.Context(), s, url, sha(disk))
			wantDisk(t, w, err, disk)
		})
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNoDowngradeByRedirect(t *testing.T) {
	plain := &server{content: randomDisk(4096), etag: `"a"`}
	url := serve(t, plain)
	tls := httptest.NewTLSServer(http.RedirectHandler(url, http.StatusFound))
	defer tls.Close()
	s := testStore(t, func(o *Options) {
		o.Client = tls.Client()
		o.Client.CheckRedirect = checkRedirect
	})
	_, err := warmURL(t.Context(), s, tls.URL, NoChecksum)
	if requests, _ := plain.seen(); !errors.Is(err, errHTTPDowngrade) || len(requests) != 0 {
		t.Errorf("%v, %d requests", err, len(requests))
	}
	tls.Client().CloseIdleConnections()
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string][2]int64{
		"bytes 0-9/10": {0, 10}, "bytes 5-9/10": {5, 10}, "bytes 5-9/*": {5, -1},
	} {
		start, total, err := contentRange(s)
		if err != nil || start != want[0] || total != want[1] {
			t.Errorf("%q: %d, %d, %v", s, start, total, err)
		}
	}
	for _, s := range []string{"", "bytes", "bytes 1-2", "bytes 5-3/10", "bytes -1-9/10", "bytes 0-8/10", "bytes 0-10/10", "items 0-9/10", "bytes a-b/c", "bytes 0-9223372036854775808/*"} {
		if _, _, err := contentRange(s); err == nil {
			t.Errorf("%q passes", s)
		}
	}
}
