package datapath

import (
	"errors"
	"fmt"
	"math"
	"regexp"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// side is one direction of a link, with the program that judges it.
type side struct {
	name    string // in pins
	program string
	tcx     ebpf.AttachType
	parent  uint32 // of clsact filters
}

// sides are seen from the host's end: what it receives is from the phone.
var sides = [2]side{
	{name: "from", program: "from_phone", tcx: ebpf.AttachTCXIngress, parent: netlink.HANDLE_MIN_INGRESS},
	{name: "to", program: "to_phone", tcx: ebpf.AttachTCXEgress, parent: netlink.HANDLE_MIN_EGRESS},
}

// idPattern is what can be in the name of a pin, and is unambiguous there.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)

// Attach puts the programs on a link of this network namespace, the host's end of the phone called id; the link should be down. A link that
// has them keeps them; programs of another version are replaced between two packets. What an earlier link of the phone has left, a link that
// is gone, is cleared away.
//
// errdefs.ErrInvalidArgument: an id of other characters than letters, digits and "-"; errdefs.ErrNotFound: there is no such link;
// errdefs.ErrFailedPrecondition: the phone's programs are on another link that is still there (Detach), or another's filter is where ours goes;
// errdefs.ErrNotImplemented, an *UnsupportedError: the kernel has neither TCX nor cls_bpf.
func (d *Datapath) Attach(id string, ifindex int) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("attach %q: an id has letters, digits and -, at most 128: %w", id, errdefs.ErrInvalidArgument)
	}
	if ifindex < 1 || ifindex > math.MaxInt32 {
		return fmt.Errorf("attach %s: no link has the index %d: %w", id, ifindex, errdefs.ErrInvalidArgument)
	}
	d.attach.Lock()
	defer d.attach.Unlock()
	if err := d.attachSides(id, ifindex); err != nil {
		return fmt.Errorf("attach %s to link %d: %w", id, ifindex, pinned.Classed(err))
	}
	if err := d.pins.removeOthers(); err != nil {
		return fmt.Errorf("remove pins of another layout: %w", err)
	}
	return nil
}

// attachSides attaches by links, or by filters where there are none. Those of the other kind, which an agent with another Config left, go last.
func (d *Datapath) attachSides(id string, ifindex int) error {
	if !d.filters {
		err := d.attachLinks(id, ifindex)
		if err == nil {
			return d.removeFilters(ifindex)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		d.filters = true
		d.log.Info("the kernel has no TCX links (Linux 6.6): clsact filters are used")
	}
	if err := d.attachFilters(id, ifindex); err != nil {
		return err
	}
	return d.removeLinks(id)
}

// Mechanism tells by what programs are attached: "TCX" or "clsact". Before the first Attach it is what will be tried first.
func (d *Datapath) Mechanism() string {
	d.attach.Lock()
	defer d.attach.Unlock()
	if d.filters {
		return "clsact"
	}
	return "TCX"
}

// Attached returns the phones that have programs on a link, and the link's index; 0 for one whose link is gone, of which pins are left.
func (d *Datapath) Attached() (map[string]int, error) {
	d.attach.Lock()
	defer d.attach.Unlock()
	all, err := d.attached()
	if err != nil {
		return nil, fmt.Errorf("list attached phones: %w", pinned.Classed(err))
	}
	return all, nil
}

func (d *Datapath) attached() (map[string]int, error) {
	all, err := d.linked()
	if err != nil {
		return nil, err
	}
	filtered, err := d.filtered()
	if err != nil {
		return nil, err
	}
	for id, ifindex := range filtered {
		if all[id] == 0 {
			all[id] = ifindex
		}
	}
	return all, nil
}

// Detach takes the programs off a phone's link. A link that is still there is taken down first: nothing passes it unjudged. That the
// phone has none is no error.
func (d *Datapath) Detach(id string) error {
	d.attach.Lock()
	defer d.attach.Unlock()
	if err := d.detach(id); err != nil {
		return fmt.Errorf("detach %s: %w", id, pinned.Classed(err))
	}
	return nil
}

// attachedTo returns the link that has a phone's programs, 0 for none or one that is gone.
func (d *Datapath) attachedTo(id string) (ifindex int, err error) {
	if ifindex, err = d.linkedTo(id); ifindex != 0 || err != nil {
		return ifindex, err
	}
	all, err := d.filtered()
	return all[id], err
}

func (d *Datapath) detach(id string) error {
	ifindex, err := d.attachedTo(id)
	if err != nil {
		return err
	}
	if ifindex != 0 {
		device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
		if err := d.netlink.LinkSetDown(device); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("take link %d down: %w", ifindex, err)
		}
		if err := d.removeFilters(ifindex); err != nil {
			return err
		}
	}
	if err := d.removeLinks(id); err != nil {
		return err
	}
	return d.pins.removeOthers()
}
