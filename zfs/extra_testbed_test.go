// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"os"
	"runtime"
	"testing"
)

// What zfs get reads elsewhere: the file system's own properties, the table of
// mounts, the alternate root.
func TestRealExtraProperties(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 256*mib, func(s *PoolSpec) {
		s.Props["altroot"] = "/var/tmp/alt-" + s.Name
		s.RootProps = Props{"mountpoint": "/"}
	})
	t.Cleanup(func() { _ = os.RemoveAll("/var/tmp/alt-" + p) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.CreateFilesystem(ctx, p+"/own", Props{"casesensitivity": "mixed", "normalization": "formKD", "utf8only": "on", "filesystem_limit": "9", "snapshot_limit": "9"}))
	must(h.CreateFilesystem(ctx, p+"/old", Props{"version": "4", "mountpoint": "/elsewhere", "xattr": "off"}))
	must(h.CreateFilesystem(ctx, p+"/legacy", Props{"mountpoint": "legacy"}))
	must(h.CreateFilesystem(ctx, p+"/plain", Props{"relatime": "off"}))
	must(h.CreateFilesystem(ctx, p+"/plain/deep", nil))
	must(h.CreateVolume(ctx, p+"/vol", VolumeOptions{Size: 8 * mib, Sparse: true, Props: Props{"volmode": "none"}}))
	must(h.CreateEncryptedFilesystem(ctx, p+"/locked", RawKey(randomBytes(32)), nil))
	_, err := h.CreateSnapshotTree(ctx, p, "s", nil)
	must(err)
	must(h.CreateBookmarks(ctx, map[string]string{p + "/plain#mark": p + "/plain@s", p + "/vol#mark": p + "/vol@s"}))
	must(h.Clone(ctx, p+"/plain@s", p+"/c1", nil))
	must(h.Clone(ctx, p+"/plain@s", p+"/c2", nil))
	must(h.Clone(ctx, p+"/vol@s", p+"/vc", Props{"volmode": "none"}))
	must(h.CreateSnapshots(ctx, []string{p + "/c1@r"}, nil))
	if oracle(t) {
		tool(t, "zfs", "redact", p+"/plain@s", "redaction", p+"/c1@r")
	}
	compareDatasets(t, h, p)
	if d, err := h.Get(ctx, p+"/own"); err != nil || d.Value("utf8only") != "on" || d.Value("normalization") != "formKD" ||
		d.Value("casesensitivity") != "mixed" || d.Value("version") != "5" || d.Value("mounted") != "no" || d.Value("mountpoint") != "/var/tmp/alt-"+p+"/own" {
		t.Error(d, err)
	}

	// Mounts that differ from the properties.
	must(h.Mount(ctx, p+"/own", MountOptions{ReadOnly: true}))
	must(h.Mount(ctx, p+"/old", MountOptions{}))
	must(h.Mount(ctx, p+"/plain", MountOptions{}))
	must(h.Mount(ctx, p+"/locked", MountOptions{}))
	must(h.Set(ctx, p+"/plain", Props{"atime": "off", "devices": "off", "relatime": "on"}))
	if oracle(t) && runtime.GOOS == "linux" {
		tool(t, "mount", "-o", "remount,nosuid,noexec", "/var/tmp/alt-"+p+"/plain")
	}
	compareDatasets(t, h, p)
	d, err := h.Get(ctx, p+"/own", "readonly", "mounted")
	must(err)
	if ro, _ := d.Property("readonly"); ro.Source != SourceTemporary || ro.Value != "on" || d.Value("mounted") != "yes" || d.Value("utf8only") != "" || d.Value("used") != "" {
		t.Errorf("%+v %q", ro, d.Value("mounted"))
	}
	for d, err := range h.Descend(ctx, p, Filesystems, With("mounted", "version")) {
		must(err)
		if d.Value("version") == "" || d.Value("mounted") == "" || d.Value("used") != "" {
			t.Error(d.Name, d.Value("version"), d.Value("mounted"))
		}
	}
	must(h.Unmount(ctx, p+"/locked", false))
	must(h.UnloadKey(ctx, p+"/locked"))
	compareDatasets(t, h, p)
}
