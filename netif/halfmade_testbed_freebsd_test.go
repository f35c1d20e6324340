// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package netif

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// makerOf has the test binary make interfaces until it is killed.
const makerOf = "SKEP_NETIF_MAKER"

func TestMaker(t *testing.T) {
	if os.Getenv(makerOf) == "" {
		return // TestKilledMaker starts it
	}
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("makes")
	for {
		tap, err := c.CreateTap(TapSpec{Common: common("nthalf0")})
		if err == nil {
			err = errors.Join(tap.Close(), c.Destroy("nthalf0"))
		}
		if err == nil {
			_, err = c.CreatePair(PairSpec{Common: common("nthalf1"), Peer: "nthalf2"})
		}
		if err == nil {
			err = c.Destroy("nthalf1")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, c *Conn) (all []string) {
	t.Helper()
	for _, i := range must[[]Interface](t)(c.List()) {
		all = append(all, i.Name)
	}
	return all
}

// What a process leaves that is killed at any moment is found.
func TestKilledMaker(t *testing.T) {
	c := open(t)
	before := names(t, c)
	found := 0
	for range 12 {
		cmd := exec.Command(must[string](t)(os.Executable()), "-test.run=^TestMaker$")
		cmd.Env = append(os.Environ(), makerOf+"=1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		killed := cmd.Process.Kill()
		cmd.Wait()
		if line != "makes\n" || err != nil || killed != nil {
			t.Fatalf("%q, %v, %v", line, err, killed)
		}
		removed := must[[]string](t)(c.Sweep(func(i Interface) bool { return i.Owner == "netif-test/nthalf0" || i.Owner == "netif-test/nthalf1" }))
		found += len(removed)
		if after := names(t, c); !slices.Equal(after, before) {
			t.Fatalf("interfaces %v, %v before; removed %v", after, before, removed)
		}
	}
	t.Logf("%d interfaces were left and found", found)
}

// An interface that never got beyond the kernel's name is found by its description if
// its maker is gone, and nobody else's is touched.
func TestHalfMade(t *testing.T) {
	c := open(t)
	k := c.k.(*freebsd)
	before := names(t, c)
	cmd := exec.Command(must[string](t)(os.Executable()), "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var dead, others []string
	for _, kind := range []string{"bridge", "tap", "epair"} {
		mk := func(list *[]string, name string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			*list = append(*list, name)
		}
		text := scratchNameOf(cmd.Process.Pid)
		name, err := cloneDescribed(kind, text)
		mk(&dead, name, err)
		if got, err := k.description(name); got != text || err != nil {
			t.Errorf("%s is described as %q, %v; want %q", name, got, err, text)
		}
		name, err = cloneDescribed(kind, scratchName()) // of a living process
		mk(&others, name, err)
		name, err = clone[byte](k, kind, nil) // anybody's
		mk(&others, name, err)
	}
	removed := must[[]string](t)(c.Sweep(func(Interface) bool { return false }))
	slices.Sort(dead)
	if !slices.Equal(removed, dead) {
		t.Errorf("removed %v, want %v", removed, dead)
	}
	for _, name := range others {
		if err := k.destroy(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := names(t, c); !slices.Equal(after, before) {
		t.Errorf("left %v, %v before", after, before)
	}
}
