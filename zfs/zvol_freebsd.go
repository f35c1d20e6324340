// SPDX-License-Identifier: BSD-2-Clause

package zfs

import "os"

func volumeNode(name string) (string, error) {
	p := "/dev/zvol/" + name
	_, err := os.Stat(p)
	return p, err
}
