// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/skepvm/skep/zfs/nvlist"
)

// ResumeToken is what the receive_resume_token property of an interrupted receive says.
type ResumeToken struct {
	ToName     string       `nv:"toname"`
	ToGUID     uint64       `nv:"toguid"`
	FromGUID   uint64       `nv:"fromguid,omitempty"`
	Object     uint64       `nv:"object"`
	Offset     uint64       `nv:"offset"`
	Bytes      uint64       `nv:"bytes"`
	LargeBlock bool         `nv:"largeblockok,flag"`
	Embedded   bool         `nv:"embedok,flag"`
	Compressed bool         `nv:"compressok,flag"`
	Raw        bool         `nv:"rawok,flag"`
	Rest       *nvlist.List `nv:",rest"`
}

const maxToken = 1 << 20

// ParseResumeToken decodes a token: "1-CHECKSUM-LENGTH-HEX", where HEX is an
// nvlist in zlib's format and CHECKSUM the first word of its fletcher4.
func ParseResumeToken(s string) (*ResumeToken, error) {
	t, err := parseToken(s)
	if err != nil {
		return nil, fmt.Errorf("zfs: resume token %.24q…: %w: %w", s, ErrInvalid, err)
	}
	return t, nil
}

func parseToken(s string) (*ResumeToken, error) {
	parts := strings.Split(s, "-")
	if len(parts) != 4 || parts[0] != "1" || len(s) > maxToken {
		return nil, errors.New("want 1-CHECKSUM-LENGTH-PAYLOAD")
	}
	want, err := strconv.ParseUint(parts[1], 16, 64)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseUint(parts[2], 16, 32)
	if err != nil || size > maxToken {
		return nil, fmt.Errorf("a payload of %q bytes", parts[2])
	}
	packed, err := hex.DecodeString(parts[3])
	if err != nil {
		return nil, err
	}
	if tokenSum(packed) != want {
		return nil, errors.New("checksum mismatch")
	}
	rest := bytes.NewReader(packed)
	z, err := zlib.NewReader(rest)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(z, int64(size)+1))
	if err != nil {
		return nil, err
	}
	if uint64(len(raw)) != size || rest.Len() != 0 {
		return nil, fmt.Errorf("%d bytes of payload, not %d", len(raw), size)
	}
	l, err := nvlist.Decode(raw)
	if err != nil {
		return nil, err
	}
	t := new(ResumeToken)
	if err := l.Unmarshal(t); err != nil {
		return nil, err
	}
	if t.ToName == "" || t.ToGUID == 0 {
		return nil, errors.New("it names no snapshot")
	}
	return t, nil
}

// tokenSum is the first word of fletcher_4_native_varsize, which leaves out what does not fill a word.
func tokenSum(p []byte) uint64 {
	var f fletcher4
	f.update(p)
	return f[0]
}

// String encodes the token.
func (t *ResumeToken) String() string {
	l, err := nvlist.Marshal(t)
	if err != nil {
		return ""
	}
	raw, err := l.Encode(nvlist.XDR)
	if err != nil {
		return ""
	}
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(raw) // a bytes.Buffer takes all
	_ = z.Close()
	return fmt.Sprintf("1-%x-%x-%x", tokenSum(b.Bytes()), len(raw), b.Bytes())
}
