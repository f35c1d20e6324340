// SPDX-License-Identifier: BSD-2-Clause

// Package report reads what go test -json prints, shows a line a package and
// the whole output of what failed, and keeps totals over several runs.
//
// It is imported by cmd/skep-testbed alone.
package report
