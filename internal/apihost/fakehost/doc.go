// SPDX-License-Identifier: BSD-2-Clause

// Package fakehost is a host without a hypervisor, behind which api.NewOver
// serves the real API.
//
// It is imported by tests only.
package fakehost
