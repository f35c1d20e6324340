// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"os/exec"
	"strings"
	"testing"
)

// TestArguments lets a shell take the arguments apart again.
func TestArguments(t *testing.T) {
	args := []string{"printf", "%s|", "a b", "it's", `"$HOME"`, "`id`", "\\", "", "*", "a\nb", "-n", "'", "''"}
	line := Command{Args: args}.node().Value
	out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput()
	if want := strings.Join(args[2:], "|") + "|"; err != nil || string(out) != want {
		t.Errorf("%s: %q, %v; want %q", line, out, err, want)
	}
}
