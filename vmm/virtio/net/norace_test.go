// SPDX-License-Identifier: BSD-2-Clause

//go:build !race

package net_test

const raceEnabled = false
