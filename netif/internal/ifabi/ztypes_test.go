// SPDX-License-Identifier: BSD-2-Clause

package ifabi

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

type field struct {
	Name         string
	Offset, Size uintptr
}

type table struct {
	Structs map[string]struct {
		Size   uintptr
		Fields []field
	}
	Constants map[string]uint64
}

func readTable(t *testing.T) table {
	b, err := os.ReadFile("testdata/abi-freebsd15-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	var tab table
	if err := json.Unmarshal(b, &tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

// Each Go structure names the C members that it has, in order; a union's member
// stands for the union.
func TestStructs(t *testing.T) {
	tab := readTable(t)
	for _, c := range []struct {
		name   string
		v      any
		fields string
	}{
		{"ifreq", Ifreq{}, "ifr_name ifr_ifru"},
		{"ifreq", IfreqBuffer{}, "ifr_name"},
		{"ifreq", IfreqData[byte]{}, "ifr_name ifru_data"},
		{"ifdrv", Drv[byte]{}, "ifd_name ifd_cmd ifd_len ifd_data"},
		{"ifgroupreq", Groupreq{}, "ifgr_name ifgr_len ifgru_groups"},
		{"ifgroupreq", GroupreqName{}, "ifgr_name ifgr_len ifgru_group"},
		{"ifg_req", Ifgreq{}, "ifgrqu_member"},
		{"ifbreq", Bridgereq{}, "ifbr_ifsname ifbr_ifsflags ifbr_stpflags ifbr_path_cost ifbr_portno ifbr_priority ifbr_proto ifbr_role ifbr_state ifbr_addrcnt ifbr_addrmax ifbr_addrexceeded ifbr_pvid ifbr_vlanproto pad"},
		{"ifbifconf", Bridgelist{}, "ifbic_len ifbicu_req"},
		{"ifaliasreq", Aliasreq{}, "ifra_name ifra_addr ifra_broadaddr ifra_mask ifra_vhid"},
		{"in_aliasreq", Aliasreq{}, "ifra_name ifra_addr ifra_broadaddr ifra_mask ifra_vhid"},
		{"in6_aliasreq", Aliasreq6{}, "ifra_name ifra_addr ifra_broadaddr ifra_prefixmask ifra_flags ifra_lifetime ifra_vhid"},
		{"in6_ifreq", Ifreq6{}, "ifr_name ifru_addr"},
		{"vlanreq", Vlanreq{}, "vlr_parent vlr_tag vlr_proto"},
		{"ifvxlanparam", Vxlanparam{}, "vxlp_with vxlp_vni vxlp_local_sa vxlp_remote_sa vxlp_local_port vxlp_remote_port vxlp_min_port vxlp_max_port vxlp_mc_ifname vxlp_ftable_timeout vxlp_ftable_max vxlp_ttl vxlp_learn"},
		{"ifvxlancfg", Vxlancfg{}, "vxlc_vni vxlc_local_sa vxlc_remote_sa vxlc_mc_ifindex vxlc_ftable_cnt vxlc_ftable_max vxlc_ftable_timeout vxlc_port_min vxlc_port_max vxlc_learn vxlc_ttl"},
		{"ifvxlancmd", Vxlancmd{}, "vxlcmd_flags vxlcmd_vni vxlcmd_ftable_timeout vxlcmd_ftable_max vxlcmd_port vxlcmd_port_min vxlcmd_port_max vxlcmd_mac vxlcmd_ttl vxlcmd_sa vxlcmd_ifname"},
	} {
		typ := reflect.TypeOf(c.v)
		want, ok := tab.Structs[c.name]
		if !ok {
			t.Errorf("struct %s is not in the table", c.name)
			continue
		}
		if typ.Size() != want.Size {
			t.Errorf("%v: %d bytes, want %d of struct %s", typ, typ.Size(), want.Size, c.name)
		}
		at := 0
		for _, name := range strings.Fields(c.fields) {
			for at < typ.NumField() && typ.Field(at).Name == "_" {
				at++
			}
			f := member(t, want.Fields, name)
			if at >= typ.NumField() || typ.Field(at).Offset != f.Offset || typ.Field(at).Type.Size() != f.Size {
				t.Errorf("%v: field %d is not %s.%s at %d of %d bytes", typ, at, c.name, name, f.Offset, f.Size)
			}
			at++
		}
	}
}

// member is the first of that name: the table has a union's members again with
// their offsets in the union.
func member(t *testing.T, fields []field, name string) field {
	for _, f := range fields {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no member %s", name)
	return field{}
}

func TestNumbers(t *testing.T) {
	tab := readTable(t)
	for name, got := range map[string]uint64{
		"SIOCIFCREATE2": SIOCIFCREATE2, "SIOCIFDESTROY": SIOCIFDESTROY, "SIOCGIFSTATUS": SIOCGIFSTATUS, "SIOCSIFNAME": SIOCSIFNAME,
		"SIOCSIFDESCR": SIOCSIFDESCR, "SIOCGIFDESCR": SIOCGIFDESCR, "SIOCGIFFLAGS": SIOCGIFFLAGS, "SIOCSIFFLAGS": SIOCSIFFLAGS,
		"SIOCSIFMTU": SIOCSIFMTU, "SIOCSIFLLADDR": SIOCSIFLLADDR, "SIOCGIFCAP": SIOCGIFCAP, "SIOCSIFCAP": SIOCSIFCAP,
		"SIOCAIFADDR": SIOCAIFADDR, "SIOCDIFADDR": SIOCDIFADDR, "SIOCAIFADDR_IN6": SIOCAIFADDR_IN6, "SIOCDIFADDR_IN6": SIOCDIFADDR_IN6,
		"SIOCAIFGROUP": SIOCAIFGROUP, "SIOCDIFGROUP": SIOCDIFGROUP, "SIOCGIFGROUP": SIOCGIFGROUP, "SIOCGIFGMEMB": SIOCGIFGMEMB,
		"SIOCGDRVSPEC": SIOCGDRVSPEC, "SIOCSDRVSPEC": SIOCSDRVSPEC, "SIOCGETVLAN": SIOCGETVLAN, "SIOCSETVLAN": SIOCSETVLAN,
		"TAPSVNETHDR": TAPSVNETHDR, "TAPGIFNAME": TAPGIFNAME,
		"BRDGADD": BRDGADD, "BRDGDEL": BRDGDEL, "BRDGGIFFLGS": BRDGGIFFLGS, "BRDGSIFFLGS": BRDGSIFFLGS, "BRDGGIFS": BRDGGIFS,
		"IFBIF_PRIVATE": IFBIF_PRIVATE, "IFF_UP": IFF_UP,
		"VXLAN_CMD_GET_CONFIG": VXLAN_CMD_GET_CONFIG, "VXLAN_CMD_SET_REMOTE_ADDR": VXLAN_CMD_SET_REMOTE_ADDR,
		"VXLAN_CMD_FTABLE_ENTRY_ADD": VXLAN_CMD_FTABLE_ENTRY_ADD, "VXLAN_CMD_FTABLE_ENTRY_REM": VXLAN_CMD_FTABLE_ENTRY_REM,
		"VXLAN_PARAM_WITH_VNI": VXLAN_PARAM_WITH_VNI, "VXLAN_PARAM_WITH_LOCAL_ADDR4": VXLAN_PARAM_WITH_LOCAL_ADDR4,
		"VXLAN_PARAM_WITH_LOCAL_ADDR6": VXLAN_PARAM_WITH_LOCAL_ADDR6, "VXLAN_PARAM_WITH_REMOTE_ADDR4": VXLAN_PARAM_WITH_REMOTE_ADDR4,
		"VXLAN_PARAM_WITH_REMOTE_ADDR6": VXLAN_PARAM_WITH_REMOTE_ADDR6, "VXLAN_PARAM_WITH_LOCAL_PORT": VXLAN_PARAM_WITH_LOCAL_PORT,
		"VXLAN_PARAM_WITH_REMOTE_PORT": VXLAN_PARAM_WITH_REMOTE_PORT, "VXLAN_PARAM_WITH_MULTICAST_IF": VXLAN_PARAM_WITH_MULTICAST_IF,
		"VXLAN_PARAM_WITH_TTL": VXLAN_PARAM_WITH_TTL, "VXLAN_PARAM_WITH_LEARN": VXLAN_PARAM_WITH_LEARN,
	} {
		want, ok := tab.Constants[name]
		if !ok {
			t.Errorf("%s is not in the table", name)
		} else if got != want {
			t.Errorf("%s = %#x, want %#x", name, got, want)
		}
	}
}
