// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/skepvm/skep/vmm/boot"
)

func TestBootSource(t *testing.T) {
	file := func(content string) *os.File {
		t.Helper()
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	got, err := bootSource(file("MZ a bzImage"), nil, "")
	if l, ok := got.(boot.Linux); err != nil || !ok || l.Cmdline != defaultCmdline+linuxArgs || l.Initrd != nil {
		t.Errorf("%+v %v", got, err)
	}
	got, err = bootSource(file(""), file("i"), "quiet")
	if l, ok := got.(boot.Linux); err != nil || !ok || l.Cmdline != "quiet"+linuxArgs || l.Initrd == nil {
		t.Errorf("%+v %v", got, err)
	}
	got, err = bootSource(file("\x7fELF"), file("i"), ` a=b  vfs.root.mountfrom="ufs:/dev/md0" empty= `)
	f, ok := got.(boot.FreeBSD)
	if err != nil || !ok || len(f.Modules) != 1 || f.Modules[0].Type != "mfs_root" ||
		!maps.Equal(f.Env, map[string]string{"a": "b", "vfs.root.mountfrom": "ufs:/dev/md0", "empty": ""}) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = bootSource(file("\x7fELF"), nil, ""); err != nil || got.(boot.FreeBSD).Env["vfs.root.mountfrom"] == "" {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"a", "=b", `a="b`, `a="b" c`, `a b=c`} {
		if got, err := bootSource(file("\x7fELF"), nil, bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
