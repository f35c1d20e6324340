// SPDX-License-Identifier: BSD-2-Clause

package skep

import "os"

// holdUID is the nth of the users that begin at base. Two workers that are one user
// share nothing here: the limit of processes is one, and each is one already.
func holdUID(base uint32, n uint16) (uint32, *os.File, error) { return base + uint32(n), nil, nil }
