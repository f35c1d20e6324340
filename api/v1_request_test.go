// SPDX-License-Identifier: BSD-2-Clause

package api

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/wire"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdyiyYhYUbrLFd8Cc7hpsOU7tXnnYKq6JBNsnAIbWKZ user@example"

// body makes a create body from name, JSON value pairs on top of a good one; an
// empty value takes the field away.
func body(change ...string) string {
	f := map[string]string{"image": `"debian12"`, "cpus": "2", "ram": `"1g"`, "imgsize": `"10g"`, "pubkey": fmt.Sprintf("%q", testKey)}
	for i := 0; i < len(change); i += 2 {
		f[change[i]] = change[i+1]
	}
	var parts []string
	for k, v := range f {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", k, v))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestCreateTakesWhatClientsSend(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want func(*createRequest) bool
	}{
		"curl of the article": {body("type", `"bhyve"`, "image", "", "img", `"debian12"`, "cpus", `"2"`),
			func(q *createRequest) bool {
				return q.Legacy && q.CPUs == 2 && q.Image == "debian12" && q.RAM == 1<<30 && q.Disk == 10<<30
			}},
		"nubectl 2023": {body(), func(q *createRequest) bool { return !q.Legacy && q.CPUs == 2 && q.CID == wire.CID(testKey) }},
		"jail":         {body("image", `"jail"`, "cpus", "", "ram", "", "imgsize", `"2g"`), func(q *createRequest) bool { return q.Type == "jail" && q.CPUs == 0 }},
		"typed jail":   {body("type", `"jail"`, "image", ""), func(q *createRequest) bool { return q.Type == "jail" }},
		"mybee-qt":     {body("image", "", "vm_os_type", `"linux"`, "vm_os_profile", `"cloud-debian-x86-12"`), func(q *createRequest) bool { return q.Image == "cloud-debian-x86-12" && q.OSType == "linux" }},
		"CBSDfile":     {body("pkglist", `""`, "extras", `""`, "recomendation", `""`, "host_hostname", `""`, "email", `""`, "callback", `""`, "ram", `""`), func(q *createRequest) bool { return q.RAM == 0 && q.Hostname == "" }},
		"any case":     {`{"Image":"debian12","PubKey":"` + testKey + `","CPUS":3}`, func(q *createRequest) bool { return q.CPUs == 3 && q.Disk == 0 }},
		"unknown keys": {body("zfs", `{"a":[1,{"b":null}]}`, "x", "[]"), func(q *createRequest) bool { return true }},
		"null":         {body("ram", "null", "cpus", "null"), func(q *createRequest) bool { return q.RAM == 0 && q.CPUs == 1 }},
		"hostname":     {body("host_hostname", `"Hive_one.lan"`), func(q *createRequest) bool { return q.Hostname == "Hive-one.lan" }},
		"edges of _":   {body("host_hostname", `"_a__b_._.c"`), func(q *createRequest) bool { return q.Hostname == "a--b.c" }},
		"only _":       {body("host_hostname", `"___"`), func(q *createRequest) bool { return q.Hostname == "" }},
		"any email":    {body("email", `"Ada Lovelace <ada@näh.example>, none"`), func(q *createRequest) bool { return q.Email == "Ada Lovelace <ada@näh.example>, none" }},
		"packages":     {body("pkglist", `" mc  nginx "`), func(q *createRequest) bool { return len(q.Packages) == 2 && q.Packages[1] == "nginx" }},
	} {
		q, err := parseCreate("vm1", strings.NewReader(c.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if q.ID != "vm1" || !c.want(q) {
			t.Errorf("%s: %+v", name, q)
		}
	}
	if q, err := parseCreate("_", strings.NewReader(body())); err != nil || q.ID != "" {
		t.Errorf("first free name: %+v %v", q, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	long := `"` + strings.Repeat("a", 2000) + `"`
	for name, c := range map[string]struct{ body, message string }{
		"no body":            {"", "ends too early"},
		"not JSON":           {"create", "not valid JSON"},
		"cut":                {body()[:40], "not valid JSON"},
		"array":              {"[]", "should be a JSON object"},
		"trailing":           {body() + "{}", "something after"},
		"twice":              {body("Image", `"x"`), `"image" is given twice`},
		"no image":           {body("image", ""), "Empty image field"},
		"empty image":        {body("image", `""`), "Empty image field"},
		"two images":         {body("img", `"other"`), "name different images"},
		"image path":         {body("image", `"../etc/passwd"`), "The image should be valid form"},
		"image NUL":          {body("image", `"a\u0000b"`), "NUL byte"},
		"image list":         {body("image", `["debian12"]`), "image should be a string"},
		"type":               {body("type", `"docker"`), "type should be bhyve or jail"},
		"no key":             {body("pubkey", ""), "Pubkey too small"},
		"short key":          {body("pubkey", `"ssh-rsa AAAA"`), "Pubkey too small"},
		"long key":           {body("pubkey", `"ssh-rsa `+strings.Repeat("A", 1000)+`"`), "Pubkey too long"},
		"key of no type":     {body("pubkey", long[:200]+`"`), "pubkey should be valid form"},
		"key options":        {body("pubkey", fmt.Sprintf("%q", `command="rm -rf /" `+testKey)), "pubkey should be valid form"},
		"two keys":           {body("pubkey", fmt.Sprintf("%q", testKey+"\n"+testKey)), "pubkey should be valid form"},
		"key not base64":     {body("pubkey", `"ssh-ed25519 !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"`), "could not be parsed"},
		"cpus 0":             {body("cpus", "0"), "cpus valid range: 1-16"},
		"cpus 17":            {body("cpus", `"17"`), "cpus valid range: 1-16"},
		"cpus -1":            {body("cpus", "-1"), "cpus valid range: 1-16"},
		"cpus 1.5":           {body("cpus", "1.5"), "cpus valid range: 1-16"},
		"cpus huge":          {body("cpus", "1e99"), "cpus valid range: 1-16"},
		"cpus word":          {body("cpus", `"two"`), "cpus valid range: 1-16"},
		"cpus object":        {body("cpus", `{}`), "cpus should be a string"},
		"ram without unit":   {body("ram", `"8"`), "The ram should be valid form, 512m, 1g"},
		"ram upper case":     {body("ram", `"1G"`), "The ram should be valid form, 512m, 1g"},
		"ram zero":           {body("ram", `"0m"`), "The ram should be valid form, 512m, 1g"},
		"ram overflow":       {body("ram", `"99999999999999999999t"`), "The ram should be valid form, 512m, 1g"},
		"ram wraps":          {body("ram", `"16777217t"`), "The ram should be valid form, 512m, 1g"},
		"imgsize":            {body("imgsize", `"ten"`), "The imgsize should be valid form: 2g, 30g"},
		"package":            {body("pkglist", `"mc; rm"`), "pkglist should be package names"},
		"package option":     {body("pkglist", `"-oDebug=1"`), "pkglist should be package names"},
		"many packages":      {body("pkglist", `"`+strings.Repeat("a ", 300)+`"`), "too many packages"},
		"extras":             {body("extras", `"a b"`), "extras should be valid form"},
		"long extras":        {body("extras", long), "extras should be valid form"},
		"hostname":           {body("host_hostname", `"-a"`), "host_hostname should be valid form"},
		"hostname of -":      {body("host_hostname", `"a.-b"`), "host_hostname should be valid form"},
		"hostname space":     {body("host_hostname", `"a b"`), "host_hostname should be valid form"},
		"long label":         {body("host_hostname", `"`+strings.Repeat("a", 64)+`"`), "host_hostname should be valid form"},
		"long email":         {body("email", `"`+strings.Repeat("a", 255)+`"`), "email should be valid form"},
		"email of lines":     {body("email", `"a@b\nBcc: c@d"`), "email should be valid form"},
		"email of escapes":   {body("email", `"a\u001b[31m"`), "email should be valid form"},
		"callback":           {body("callback", `"ftp://x"`), "callback should be valid form"},
		"node":               {body("recomendation", `"a/b"`), "recomendation should be valid form"},
		"os type":            {body("vm_os_type", `"Linux"`), "vm_os_type should be valid form"},
		"large":              {strings.Repeat(" ", maxBody+1), "too large"},
		"deep":               {`{"a":` + strings.Repeat("[", 60000), "not valid JSON"},
		"invalid UTF-8 name": {"{\"\xff\":1,\"\xfe\":1}", "given twice"},
	} {
		_, err := parseCreate("vm1", strings.NewReader(c.body))
		var re *requestError
		if !errors.As(err, &re) || !strings.Contains(err.Error(), c.message) || re.status < 400 {
			t.Errorf("%s: got %v, want %q", name, err, c.message)
		}
	}
	for _, id := range []string{"", "1vm", "Vm", "a-b", "a/b", "..", "a\x00", strings.Repeat("a", 41), "a b", "vm1\n"} {
		if _, err := parseCreate(id, strings.NewReader(body())); err == nil || !strings.HasPrefix(err.Error(), "The InstanceId should be valid form") {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestCID(t *testing.T) {
	// echo -n … | md5sum: every byte counts, the comment's too.
	if a, b := wire.CID(testKey), wire.CID(testKey+"\n"); a == b || checkCID(a) != nil {
		t.Error(a, b)
	}
	if got := wire.CID("ssh-ed25519 AAAA"); got != "da4e63f3457df0eb96926967a5bbfc33" {
		t.Error(got)
	}
	for _, cid := range []string{"", "0", strings.Repeat("A", 32), strings.Repeat("a", 33), strings.Repeat("a", 31) + "/"} {
		if checkCID(cid) == nil {
			t.Errorf("cid %q taken", cid)
		}
	}
}

type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) { e.n.Add(int64(len(p))); clear(p); return len(p), nil }

func TestCreateBodyIsBounded(t *testing.T) {
	e := &endless{}
	if _, err := parseCreate("vm1", io.MultiReader(strings.NewReader("{"), e)); err == nil || e.n.Load() > 4*maxBody {
		t.Fatalf("read %d bytes: %v", e.n.Load(), err)
	}
}

func FuzzCreate(f *testing.F) {
	f.Add("vm1", body())
	f.Add("_", body("img", `"x"`, "image", ""))
	f.Add("a", body("host_hostname", `"_a_.b-_.c"`, "email", `"x y"`))
	f.Add("a", `{"pubkey":"`+testKey+`","type":"jail"}`)
	f.Fuzz(func(t *testing.T, id, b string) {
		q, err := parseCreate(id, strings.NewReader(b))
		if err != nil {
			var re *requestError
			if !errors.As(err, &re) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		if checkCID(q.CID) != nil || q.CPUs < 0 || q.CPUs > 16 || strings.ContainsAny(q.Image+q.Hostname+q.ID, "/\x00\n ") {
			t.Fatalf("%+v", q)
		}
		// What is taken here the host must not refuse.
		if err := (skep.MachineSpec{Name: "vm1", Image: "x", Hostname: q.Hostname}).Validate(); err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
	})
}
