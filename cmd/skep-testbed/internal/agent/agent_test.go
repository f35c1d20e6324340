// SPDX-License-Identifier: BSD-2-Clause

package agent

import "testing"

func TestModeOf(t *testing.T) {
	for _, c := range []struct {
		pid  int
		args []string
		want Mode
	}{
		{1, []string{"/init", "nokaslr"}, Init},
		{1, []string{"/sbin/init"}, Init},
		{1, []string{"skep-testbed", "exec", "x"}, None}, // a container's first process
		{20, []string{"/init"}, None},
		{20, []string{"agent", ServeArg}, Serve},
		{20, []string{"skep-testbed", "exec", ServeArg}, None},
		{20, nil, None},
	} {
		if got := ModeOf(c.pid, c.args); got != c.want {
			t.Errorf("process %d %q: %d, want %d", c.pid, c.args, got, c.want)
		}
	}
}

func TestSandboxPath(t *testing.T) {
	private := &sandbox{dir: "/src/vmm", backing: "/run/s1"}
	for path, want := range map[string]string{
		"/src/vmm":            "/run/s1",
		"/src/vmm/testdata/a": "/run/s1/testdata/a",
		"/src/vmm2/a":         "/src/vmm2/a",
		"/tmp/b001/vmm.test":  "/tmp/b001/vmm.test",
	} {
		if got := private.path(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		shared := &sandbox{dir: "/src/vmm"}
		if got := shared.path(path); got != path {
			t.Errorf("%s in a shared directory: %s", path, got)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, body := range []string{"", "{", `{"op":"run"}`, `{"op":"run","args":["x"],"dir":"relative"}`} {
		if _, err := parseRequest([]byte(body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
}
