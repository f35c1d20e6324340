// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// fetcher gets files over HTTP, and goes on where it was interrupted, also by
// the end of the process.
type fetcher struct {
	client *http.Client
	tries  int           // requests in a row that brought nothing
	first  time.Duration // pause after the first failure; it doubles up to most
	most   time.Duration
	stall  time.Duration // longest time without a byte
	limit  int64         // largest file
	space  func(dir string, need int64) error
}

// partState stands beside a partial file, and says what it is a part of.
type partState struct {
	URL       string `json:"url"`
	Validator string `json:"validator"` // for If-Range: a strong ETag, or Last-Modified
}

var (
	errHTTPDowngrade = errors.New("redirected from https to http")
	// errStale: what we have cannot be gone on from.
	errStale = errors.New("the partial file is of no use")
)

// fetch brings u into the file at path, which holds a part of it if an earlier
// try was interrupted. The content is not verified.
func (f *fetcher) fetch(ctx context.Context, u *url.URL, path string, progress func(done, total int64)) error {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(f.first), backoff.WithMaxInterval(f.most), backoff.WithMaxElapsedTime(0))
	restarted := false
	for fails := 0; ; {
		got, wait, err := f.try(ctx, u, path, progress)
		if err == nil {
			return nil
		}
		if errors.Is(err, errStale) && !restarted {
			restarted = true
			if err := writeState(path, partState{}); err != nil {
				return err
			}
			continue
		}
		err = fmt.Errorf("fetch %s: %w", u.Redacted(), err)
		var permanent *backoff.PermanentError
		if errors.As(err, &permanent) || ctx.Err() != nil {
			return err
		}
		if got > 0 {
			fails = 0
			b.Reset()
		}
		if fails++; fails >= f.tries {
			return fmt.Errorf("%w (given up after %d tries that brought nothing)", err, fails)
		}
		t := time.NewTimer(max(wait, b.NextBackOff()))
		select {
		case <-ctx.Done():
			t.Stop()
			return errors.Join(context.Cause(ctx), err)
		case <-t.C:
		}
	}
}

// try makes one request. got is how many bytes it brought; wait is how long the
// server wants to be left alone.
func (f *fetcher) try(ctx context.Context, u *url.URL, path string, progress func(done, total int64)) (got int64, wait time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("no byte came for %v", f.stall)) })
	defer watchdog.Stop()

	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, 0, backoff.Permanent(err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, backoff.Permanent(err)
	}
	state := readState(path)
	if state.URL != u.String() || state.Validator == "" {
		have = 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, 0, backoff.Permanent(err)
	}
	// What is asked for is the file itself: a transport that decompresses would
	// defeat both checksum and resume.
	req.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", state.Validator)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if errors.Is(err, errHTTPDowngrade) {
			err = backoff.Permanent(err)
		}
		return 0, 0, errors.Join(context.Cause(ctx), err)
	}
	defer resp.Body.Close()
	total, have, err := f.accept(resp, have)
	if err != nil || total == have && total >= 0 && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return 0, retryAfter(resp), err
	}
	if total > f.limit {
		return 0, 0, backoff.Permanent(fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, total, f.limit))
	}
	if total > have {
		if err := f.space(path, total-have); err != nil {
			return 0, 0, backoff.Permanent(err)
		}
	}
	if err := out.Truncate(have); err != nil {
		return 0, 0, backoff.Permanent(err)
	}
	if have == 0 {
		if err := writeState(path, partState{URL: u.String(), Validator: validator(resp)}); err != nil {
			return 0, 0, backoff.Permanent(err)
		}
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return 0, 0, backoff.Permanent(err)
	}
	got, err = f.body(ctx, out, resp.Body, have, total, watchdog, progress)
	return got, 0, err
}

// accept reads an answer's head: the whole file's size (-1 if the server does
// not say), and how much of what we have may stay.
func (f *fetcher) accept(resp *http.Response, have int64) (total, keep int64, err error) {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return resp.ContentLength, 0, nil
	case code == http.StatusPartialContent && have > 0:
		start, total, err := contentRange(resp.Header.Get("Content-Range"))
		if err != nil || start != have {
			return 0, 0, backoff.Permanent(fmt.Errorf("%w: asked from byte %d, the server answers with %q", errStale, have, clip(resp.Header.Get("Content-Range"))))
		}
		return total, have, nil
	case code == http.StatusRequestedRangeNotSatisfiable && have > 0:
		// "bytes */N": nothing is missing if N is what we have.
		size, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */")
		if n, err := strconv.ParseInt(size, 10, 64); ok && err == nil && n == have {
			return n, n, nil
		}
		return 0, 0, backoff.Permanent(fmt.Errorf("%w: the server has no byte %d of it", errStale, have))
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500 && code != http.StatusNotImplemented:
		return 0, 0, fmt.Errorf("the server answers %s", resp.Status)
	case code == http.StatusNotFound || code == http.StatusGone:
		return 0, 0, backoff.Permanent(fmt.Errorf("%w: the server answers %s", ErrNotFound, resp.Status))
	}
	return 0, 0, backoff.Permanent(fmt.Errorf("the server answers %s", resp.Status))
}

// body copies what comes, and leaves what came in the file when it breaks off.
func (f *fetcher) body(ctx context.Context, out *os.File, in io.Reader, have, total int64, watchdog *time.Timer, progress func(done, total int64)) (got int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		n, rerr := in.Read(buf)
		if n > 0 {
			watchdog.Reset(f.stall)
			if have+got+int64(n) > f.limit {
				return got, backoff.Permanent(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, f.limit))
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return got, backoff.Permanent(err)
			}
			got += int64(n)
			progress(have+got, total)
		}
		switch {
		case rerr == io.EOF && total >= 0 && have+got != total:
			return got, fmt.Errorf("the connection ended at byte %d of %d: %w", have+got, total, io.ErrUnexpectedEOF)
		case rerr == io.EOF:
			return got, nil
		case rerr != nil:
			return got, errors.Join(context.Cause(ctx), rerr)
		}
	}
}

// contentRange parses "bytes START-END/TOTAL" (RFC 9110 section 14.4); an
// unknown total is -1.
func contentRange(s string) (start, total int64, err error) {
	spec, ok := strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(spec, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, invalid("Content-Range %q", clip(s))
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	if errors.Join(err1, err2, err3) != nil || start < 0 || end < start || total >= 0 && end != total-1 {
		return 0, 0, invalid("Content-Range %q", clip(s))
	}
	return start, total, nil
}

// validator is what tells a later request whether the file is still the same:
// only a strong ETag does it byte for byte (RFC 9110 section 13.1.5).
func validator(resp *http.Response) string {
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) && len(tag) < 1024 {
		return tag
	}
	if t := resp.Header.Get("Last-Modified"); len(t) < 64 {
		return t
	}
	return ""
}

const longestWait = 2 * time.Minute

func retryAfter(resp *http.Response) time.Duration {
	s, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 64)
	if err != nil || s < 0 || s > math.MaxInt32 {
		return 0
	}
	return min(time.Duration(s)*time.Second, longestWait)
}

func stateFile(path string) string { return path + ".state" }

// readState answers nothing for what is missing or broken: then the fetch
// begins again.
func readState(path string) (s partState) {
	b, err := os.ReadFile(stateFile(path))
	if err != nil || len(b) > 16<<10 || json.Unmarshal(b, &s) != nil {
		return partState{}
	}
	return s
}

func writeState(path string, s partState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(stateFile(path), b, 0o600)
}

func removePart(path string) error {
	var errs []error
	for _, p := range []string{path, stateFile(path)} {
		if err := os.Remove(p); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
