// SPDX-License-Identifier: BSD-2-Clause

// Command skepd is the daemon of a skep host: it keeps the machines and answers
// the HTTP API. It also is the worker that runs one machine, when it starts
// itself as one.
//
// Guests do not depend on it: it may be stopped, killed or replaced while they
// run, and finds them again.
//
// It imports skep and api, and none of skep's rooms.
package main
