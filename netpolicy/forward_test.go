package netpolicy_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// What a host has listeners for, and addresses that it does not have, are refused by the engine too; the ports of forwards in force are no process's.
func TestForwardsThatCannotBeTakenOn(t *testing.T) {
	w := newWorld(t)
	p := phone(1)
	p.Forwards = []netpolicy.Forward{{Listen: netip.MustParseAddrPort("127.0.0.1:6001"), Protocol: policy.TCP, Port: 5555}}
	w.ensure(p)
	// As the name server does, at an address that is the host's since the first phone.
	names, err := net.ListenPacket("udp4", "10.213.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	for _, test := range []struct {
		protocol policy.Protocol
		listen   string
		is       func(error) bool
		says     string
	}{
		{policy.TCP, "127.0.0.1:6001", nil, ""},
		{policy.TCP, "192.168.77.1:53", nil, ""},
		{policy.UDP, "192.168.77.1:53", nil, ""},
		{policy.UDP, "0.0.0.0:53", errdefs.IsConflict, "listens on 10.213.0.1:53"},
		{policy.TCP, "192.168.77.9:6001", errdefs.IsInvalidArgument, "192.168.77.9 is no address of this host; 127.0.0.1, 0.0.0.0 for all and 192.168.77.1 are"},
		{policy.TCP, "[fd00:77::9]:6001", errdefs.IsInvalidArgument, ":: for all and fd00:77::1 are"},
	} {
		err := w.engine.CheckForward(t.Context(), netpolicy.Forward{Listen: netip.MustParseAddrPort(test.listen), Protocol: test.protocol, Port: 5555})
		if test.is == nil && err != nil || test.is != nil && (!test.is(err) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v; want %q", test.listen, err, test.says)
		}
	}
}
