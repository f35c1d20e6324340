// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skepvm/skep/internal/apihost/fakehost"
)

// rig is a Server over a fake host.
type rig struct {
	t    *testing.T
	h    *fakehost.Host
	s    *Server
	http *httptest.Server

	client *http.Client
}

func newRig(t *testing.T, opt Options) *rig {
	t.Helper()
	h := fakehost.New()
	s, err := NewOver(h, opt)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(s)
	ts.Config = s.NewHTTPServer()
	ts.Start()
	t.Cleanup(func() { s.cancel(); ts.Close(); _ = s.Close() })
	return &rig{t, h, s, ts, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

// do sends a request and gives the status and the decoded answer.
func (r *rig) do(method, path, cid, body string) (int, map[string]any) {
	r.t.Helper()
	q, err := http.NewRequest(method, r.http.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if cid != "" {
		q.Header.Set("cid", cid)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	a, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	v := map[string]any{}
	if strings.Contains(a.Header.Get("Content-Type"), "json") && !bytes.HasPrefix(b, []byte("[")) {
		if err := json.Unmarshal(b, &v); err != nil {
			r.t.Fatalf("%s %s: %v in %q", method, path, err, b)
		}
	}
	v["raw"], v["content-type"], v["sniff"] = string(b), a.Header.Get("Content-Type"), a.Header.Get("X-Content-Type-Options")
	return a.StatusCode, v
}
