// SPDX-License-Identifier: BSD-2-Clause

// Command fbsdinit is the init of the FreeBSD guest that the tests of package
// boot run: it tells what it sees on the console and obeys orders from there.
// Nothing imports it.
package main
