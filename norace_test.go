// SPDX-License-Identifier: BSD-2-Clause

//go:build !race

package skep

const raceEnabled = false
