// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"encoding/hex"
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestNewLink(t *testing.T) {
	want := "48000000 1000 0506 01000000 00000000" + "00000000000000000000000000000000" + // header, ifinfomsg
		"0800 0300 74617000" + "0c00 1200 0800 0100 74617000" + // IFLA_IFNAME tap, IFLA_LINKINFO{IFLA_INFO_KIND tap}
		"1400 1400 736b6570303030303037313233343500" // IFLA_IFALIAS
	b := newLink("tap", "skep00000712345")
	if got := hex.EncodeToString(b); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// What is no answer gives no name.
func TestNewLinkName(t *testing.T) {
	header := "00000000 0200 0001 01000000 00000000"
	asked := "48000000 1000 0506 01000000 00000000"
	for answer, want := range map[string]any{
		header + "00000000" + asked + "1800 0300 0800 3200 0b000000 0a00 0300 746170313200 0000": "tap12",
		header + "16000000" + asked:                                 syscall.EINVAL,
		header + "00000000" + asked:                                 ErrInvalid,
		header + "00000000" + asked + "0c00 0300 ff00 0300 7461":    ErrInvalid,
		header + "00000000" + asked + "0000 0300":                   ErrInvalid,
		"00000000 0300 0001 01000000 00000000" + "00000000" + asked: syscall.EBADMSG,
		header: syscall.EBADMSG,
		"":     syscall.EBADMSG,
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(answer, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		name, err := newLinkName(b)
		if werr, bad := want.(error); bad && !errors.Is(err, werr) || !bad && (err != nil || name != want) {
			t.Errorf("%s: %q, %v, want %v", answer, name, err, want)
		}
	}
}
