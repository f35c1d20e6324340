// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
)

// Where there is no FreeBSD, one loud line says so: a run that quietly did
// without would pass for a whole one.
func TestHasIsLoud(t *testing.T) {
	t.Setenv(build.DirEnv, t.TempDir())
	t.Setenv("SKEP_TESTBED", "")
	has := func(os string) error { return run([]string{"has", "-os", os}) }
	for what, path := range map[string]string{"not named": "", "not there": filepath.Join(t.TempDir(), "none")} {
		t.Setenv(build.FreeBSDEnv, path)
		err := has("freebsd")
		if err == nil || !strings.HasPrefix(err.Error(), "*** NOTHING RAN ON FREEBSD: ") || !strings.HasSuffix(err.Error(), " ***") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		if path == "" && (!errors.Is(err, build.ErrNoFreeBSD) || !strings.Contains(err.Error(), build.FreeBSDEnv)) {
			t.Errorf("%s: %v does not say what would mend it", what, err)
		}
		if err := has("linux"); err != nil {
			t.Errorf("linux: %v", err)
		}
	}
	t.Setenv(build.FreeBSDEnv, t.TempDir())
	if err := has("freebsd"); err != nil {
		t.Errorf("there is one: %v", err)
	}
	if err := has("plan9"); err == nil {
		t.Error("a testbed of plan9 can be had")
	}
}
