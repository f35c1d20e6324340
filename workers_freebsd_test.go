// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"os"
	"path/filepath"
)

// workersIn counts the workers by the locks that they hold: there is no /proc.
func workersIn(dir string) (held []int) {
	locks, _ := filepath.Glob(filepath.Join(dir, "store", "machines", "*", fileLock))
	for i, l := range locks {
		if h, err := lockHeld(l); h || err != nil && !os.IsNotExist(err) {
			held = append(held, i)
		}
	}
	return held
}

func workersUnder(dir string) []int { return workersIn(dir) }
