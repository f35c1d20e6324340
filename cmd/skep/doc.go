// SPDX-License-Identifier: BSD-2-Clause

// Command skep drives a skep host from the command line: it makes, lists,
// starts, stops and destroys machines, opens their console and logs into them
// by ssh.
//
// It calls the host through api/client. Of package skep itself it takes words
// and rules alone, such as how a size is written.
package main
