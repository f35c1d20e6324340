// SPDX-License-Identifier: BSD-2-Clause

package vmm

import "testing"

// Machines that nobody named are not each other's, also in one process.
func TestDefaultName(t *testing.T) {
	a, b := Config{}.withDefaults(), Config{}.withDefaults()
	if a.Name == b.Name {
		t.Errorf("two machines are %q", a.Name)
	}
	if !validName(a.Name) {
		t.Errorf("%q is no name", a.Name)
	}
}
