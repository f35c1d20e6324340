// SPDX-License-Identifier: BSD-2-Clause

// Package api serves a skep.Host over HTTP: version 1 as the clients of MyBee
// and CBSD speak it (nubectl, mybee-qt, CBSDfile, curl), version 2 with what
// version 1 has no words for (console, events, snapshots), the dashboard and
// the metrics. The Go client, which calls version 2, is package client in it.
//
// A caller is hostile: what comes in is checked here, once, by the rules of the
// protocol, and then by skep.MachineSpec's own.
//
// It may be imported by the commands. It imports skep, by way of
// internal/apihost, and none of skep's rooms.
package api
