// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/skepvm/skep/api/wire"
)

// maxBody bounds the body of every request, in bytes. The largest honest one, a
// create with a long package list, is a tenth of it.
const maxBody = 64 << 10

// v1Refused is the status of a request that breaks a rule of version 1. It is
// what protocol 0.4 answers; clients read the message.
const v1Refused = http.StatusMethodNotAllowed

// requestError is a refusal that the caller can mend: its text goes to the
// client word for word, for the clients of version 1 compare it.
type requestError struct {
	status  int
	message string
}

func (e *requestError) Error() string { return e.message }

func refuse(status int, format string, args ...any) error {
	return &requestError{status, fmt.Sprintf(format, args...)}
}

// Limits and forms of version 1.
const (
	maxID        = 40
	minPubkey    = 30
	maxPubkey    = 1000
	maxCPUs      = 16
	maxPackages  = 256
	maxTextField = 1024
)

var (
	idForm      = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	cidForm     = regexp.MustCompile(`^[a-f0-9]{32}$`)
	pubkeyForm  = regexp.MustCompile(`^(ssh-rsa|ssh-dss|ssh-ed25519|ecdsa-[^ ]+) ([^ ]+) ?(.*)`)
	sizeForm    = regexp.MustCompile(`^([1-9][0-9]*)([mgt])$`)
	osTypeForm  = regexp.MustCompile(`^[a-z_]+$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)
	packageForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_:/-]*$`)
	extrasForm  = regexp.MustCompile(`^[a-zA-Z0-9:,]*$`)
	urlForm     = regexp.MustCompile(`^https?://[^\s]+$`)
	hostForm    = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*$`)
	emailForm   = regexp.MustCompile(`^[^\p{Cc}]*$`) // the original takes anything; control characters help nobody
)

// createRequest is the body of POST /api/v1/create/{id}, checked.
type createRequest struct {
	ID       string // instance id; empty: the first free vm1..vm255
	CID      string
	Image    string
	Type     string // "bhyve" (a virtual machine) or "jail"
	OSType   string
	Profile  string
	CPUs     int    // 0: the image's default
	RAM      uint64 // bytes; 0: the image's default
	Disk     uint64 // bytes; 0: the image's default
	Pubkey   string
	Packages []string
	Extras   string
	Node     string // the field "recomendation"
	Hostname string
	Email    string
	Callback string
	Legacy   bool // a client of protocol 0.2, which sends "img" and reads a list of messages
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > maxID || !idForm.MatchString(id) {
		return refuse(v1Refused, "The InstanceId should be valid form: ^[a-z_]([a-z0-9_])*$ (maxlen: 40)")
	}
	return nil
}

func checkCID(cid string) error {
	if !cidForm.MatchString(cid) {
		return refuse(v1Refused, "The cid should be valid form: ^[a-f0-9]{32}$")
	}
	return nil
}

// parseSize reads 512m, 10g or 1t, in bytes.
func parseSize(s string) (uint64, bool) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	shift := map[string]uint{"m": 20, "g": 30, "t": 40}[m[2]]
	if err != nil || n > 1<<62>>shift {
		return 0, false
	}
	return n << shift, true
}

// fields is a JSON object's scalar members by lower-case name. Null and empty
// strings count as absent.
type fields map[string]json.RawMessage

// readFields decodes one JSON object from r, of at most maxBody bytes. A name
// given twice (names are compared without case, as the originals do) is
// refused: which of the two was meant is a guess.
func readFields(r io.Reader) (fields, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err != nil {
		var re *requestError
		if errors.As(err, &re) {
			return nil, err
		}
		return nil, refuse(v1Refused, "The request body could not be read: %v", err)
	}
	if len(body) > maxBody {
		return nil, refuse(http.StatusRequestEntityTooLarge, "The request body is too large: the limit is %d bytes", maxBody)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	bad := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return refuse(v1Refused, "The request body is not valid JSON: it ends too early (byte %d)", len(body))
		}
		return refuse(v1Refused, "The request body is not valid JSON: %v (byte %d)", err, dec.InputOffset())
	}
	t, err := dec.Token()
	if err != nil {
		return nil, bad(err)
	}
	if t != json.Delim('{') {
		return nil, refuse(v1Refused, "The request body should be a JSON object, as in {\"image\":\"debian12\"}")
	}
	f := fields{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, bad(err)
		}
		name := strings.ToLower(t.(string)) // the decoder gives only strings as names
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, bad(err)
		}
		if _, twice := f[name]; twice {
			return nil, refuse(v1Refused, "The field %.40q is given twice", name)
		}
		f[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(v1Refused, "The request body has something after its JSON object (byte %d)", dec.InputOffset())
	}
	return f, nil
}

// text returns a string field; a number is taken as its digits, since clients
// differ in what they send.
func (f fields) text(name string) (string, error) {
	raw, ok := f[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", refuse(v1Refused, "The field %s is not a valid string", name)
		}
		if strings.ContainsRune(s, 0) {
			return "", refuse(v1Refused, "The field %s holds a NUL byte", name)
		}
		return s, nil
	}
	if raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
		return string(raw), nil
	}
	return "", refuse(v1Refused, "The field %s should be a string", name)
}

// size returns a size field in bytes, 0 where absent, or the message given.
func (f fields) size(name, message string) (uint64, error) {
	s, err := f.text(name)
	if err != nil || s == "" {
		return 0, err
	}
	n, ok := parseSize(s)
	if !ok {
		return 0, refuse(v1Refused, "%s", message)
	}
	return n, nil
}

// form returns a text field that matches re, or is absent.
func (f fields) form(name string, re *regexp.Regexp, limit int) (string, error) {
	s, err := f.text(name)
	if err != nil || s == "" {
		return "", err
	}
	if len(s) > limit || !re.MatchString(s) {
		return "", refuse(v1Refused, "The %s should be valid form: %s (maxlen: %d)", name, re, limit)
	}
	return s, nil
}

// parseCreate checks the body of a create by every rule of version 1.
func parseCreate(id string, body io.Reader) (*createRequest, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	f, err := readFields(body)
	if err != nil {
		return nil, err
	}
	q := &createRequest{ID: id}
	if strings.HasPrefix(id, "_") {
		q.ID = ""
	}
	for _, step := range []func(fields) error{q.takeImage, q.takeKey, q.takeSizes, q.takeRest} {
		if err := step(f); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *createRequest) takeImage(f fields) (err error) {
	if q.Type, err = f.text("type"); err != nil {
		return err
	}
	switch q.Type {
	case "", "bhyve", "vm":
		q.Type = "bhyve"
	case "jail":
	default:
		return refuse(v1Refused, "The type should be bhyve or jail")
	}
	image, err := f.form("image", nameForm, 64)
	if err != nil {
		return err
	}
	img, err := f.form("img", nameForm, 64)
	if err != nil {
		return err
	}
	q.Legacy = img != ""
	switch {
	case image != "" && img != "" && image != img:
		return refuse(v1Refused, "The fields image and img name different images: give one of them")
	case image == "":
		image = img
	}
	if image == "jail" {
		q.Type = "jail"
	}
	q.Image = image
	if q.OSType, err = f.form("vm_os_type", osTypeForm, 64); err != nil {
		return err
	}
	if q.Profile, err = f.form("vm_os_profile", nameForm, 128); err != nil {
		return err
	}
	if q.Image == "" {
		q.Image = q.Profile
	}
	if q.Image == "" && q.Type != "jail" {
		return refuse(v1Refused, "Empty image field")
	}
	return nil
}

func (q *createRequest) takeKey(f fields) (err error) {
	if q.Pubkey, err = f.text("pubkey"); err != nil {
		return err
	}
	if len(q.Pubkey) < minPubkey {
		return refuse(v1Refused, "Pubkey too small")
	}
	if len(q.Pubkey) > maxPubkey {
		return refuse(v1Refused, "Pubkey too long")
	}
	// Options before the type, or a second line, would reach authorized_keys.
	if !pubkeyForm.MatchString(q.Pubkey) || strings.ContainsFunc(strings.TrimRight(q.Pubkey, "\r\n"), func(r rune) bool { return r < ' ' && r != '\t' }) {
		return refuse(v1Refused, "The pubkey should be valid form: %s", pubkeyForm)
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(q.Pubkey)); err != nil {
		return refuse(v1Refused, "The pubkey could not be parsed as an authorized key: %v", err)
	}
	q.CID = wire.CID(q.Pubkey)
	return nil
}

func (q *createRequest) takeSizes(f fields) error {
	cpus, err := f.text("cpus")
	if err != nil {
		return err
	}
	if cpus != "" {
		n, err := strconv.Atoi(cpus)
		if err == nil && n == 0 && q.Type == "jail" {
			n = 1 // clients send 0 for "does not apply"
		}
		if err != nil || n < 1 || n > maxCPUs {
			return refuse(v1Refused, "cpus valid range: 1-16")
		}
		q.CPUs = n
	} else if q.Type != "jail" {
		q.CPUs = 1
	}
	if q.RAM, err = f.size("ram", "The ram should be valid form, 512m, 1g"); err != nil {
		return err
	}
	q.Disk, err = f.size("imgsize", "The imgsize should be valid form: 2g, 30g")
	return err
}

func (q *createRequest) takeRest(f fields) (err error) {
	list, err := f.text("pkglist")
	if err != nil {
		return err
	}
	q.Packages = strings.Fields(list)
	if len(q.Packages) > maxPackages {
		return refuse(v1Refused, "The pkglist names too many packages: the limit is %d", maxPackages)
	}
	for _, p := range q.Packages {
		if len(p) > 128 || !packageForm.MatchString(p) {
			return refuse(v1Refused, "The pkglist should be package names, separated by spaces: %.40q is none", p)
		}
	}
	for _, x := range []struct {
		dst   *string
		name  string
		form  *regexp.Regexp
		limit int
	}{
		{&q.Extras, "extras", extrasForm, maxTextField},
		{&q.Node, "recomendation", nameForm, 253},
		{&q.Hostname, "host_hostname", hostForm, 253},
		{&q.Email, "email", emailForm, 254},
		{&q.Callback, "callback", urlForm, maxTextField},
	} {
		if *x.dst, err = f.form(x.name, x.form, x.limit); err != nil {
			return err
		}
	}
	q.Hostname = hostnameFrom(q.Hostname)
	return nil
}

// hostnameFrom makes a host name of RFC 1123 out of words that may hold _, as
// ids do: _ becomes -, and what then may not stand at a label's ends goes. Of
// nothing but _ nothing is left, which is the default.
func hostnameFrom(s string) string {
	var labels []string
	for l := range strings.SplitSeq(strings.ReplaceAll(s, "_", "-"), ".") {
		if l = strings.Trim(l, "-"); l != "" {
			labels = append(labels, l)
		}
	}
	return strings.Join(labels, ".")
}
