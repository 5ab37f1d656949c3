package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watched are the groups of announcements that Watch listens to.
var watched = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

const (
	// quiet is how long nothing must have happened before a change is told, and longest how long one is kept at most.
	quiet, longest = 100 * time.Millisecond, time.Second
	// resubscribe is how long Watch waits before it tries again to listen.
	resubscribe = time.Second
)

// Watch tells when Protected, the uplink, its MTU or its forwarding may give another answer than before: what the kernel announces of addresses,
// routes, links and their settings is gathered for 100 ms, a second at most, and compared with what was; phones' own links do not count.
// The receiver then calls Ensure and Protected again. Several changes may be told as one, and none is lost: when the kernel had to drop
// announcements, Watch looks for itself.
//
// The channel is closed when ctx has ended and the one goroutine behind it has too.
func (w *Wire) Watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		last := w.state()
		w.again(ctx, func() error { return w.listen(ctx, &last, changed) })
	}()
	return changed
}

// again listens until the context ends, anew whenever that breaks off.
func (w *Wire) again(ctx context.Context, listen func() error) {
	for ctx.Err() == nil {
		err := listen()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, unix.ENOBUFS) {
			continue // announcements were lost: listen anew, which begins with a look
		}
		w.log.Warn("listening to the kernel's announcements of network changes", "error", err, "again_in", resubscribe)
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
}

// listen subscribes and tells of changes until the context ends or the subscription breaks, which is its error.
func (w *Wire) listen(ctx context.Context, last *state, changed chan<- struct{}) error {
	s, err := w.subscribe(watched...)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, s.Close) // it ends Receive
	defer stop()
	ours, err := w.ourLinks()
	if err != nil {
		return err
	}
	pending := time.Now() // the first look: what happened before the subscription was not announced
	for {
		if !pending.IsZero() && time.Since(pending) >= longest {
			pending = w.tell(last, changed)
		}
		wait := unix.Timeval{} // none
		if !pending.IsZero() {
			wait = unix.NsecToTimeval(int64(min(quiet, max(longest-time.Since(pending), time.Millisecond))))
		}
		if err := s.SetReceiveTimeout(&wait); err != nil {
			return err
		}
		messages, _, err := s.Receive()
		if errors.Is(err, unix.EAGAIN) {
			pending = w.tell(last, changed)
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for _, m := range messages {
			if pending.IsZero() && matters(m.Header.Type, m.Data, ours) {
				pending = time.Now()
			}
		}
	}
}

// subscribe opens a socket that gets what the kernel announces to groups.
func (w *Wire) subscribe(groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	size := 1 << 20
	if w.receive != 0 {
		size = w.receive
	}
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err != nil {
		s.Close()
		return nil, fmt.Errorf("subscribe: make room for %d bytes: %w", size, err)
	}
	return s, nil
}

// tell looks at what there is, and tells when it is not what was. It returns the time of what is still to be told: none.
func (w *Wire) tell(last *state, changed chan<- struct{}) time.Time {
	now := w.state()
	if now.equal(*last) {
		return time.Time{}
	}
	*last = now
	select {
	case changed <- struct{}{}:
	default: // the receiver has not yet taken the one before
	}
	return time.Time{}
}

// matters tells whether an announcement can be of more than phones' links, and keeps the list of those.
func matters(kind uint16, message []byte, ours map[int]bool) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(message) < unix.SizeofIfInfomsg {
			return true
		}
		link, err := netlink.LinkDeserialize(nil, message)
		if err != nil {
			return true
		}
		index := link.Attrs().Index
		if mine := isHostEnd(link); !mine || kind == unix.RTM_DELLINK {
			delete(ours, index)
			return !mine
		}
		ours[index] = true
		return false
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, ok, err := parseAddress(message)
		return err != nil || ok && !ours[a.index]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return !routeIsOurs(message, ours)
	case unix.RTM_NEWNETCONF:
		index, ok := attribute(message, sizeofNetconf, netconfIndex)
		return !ok || !ours[int(int32(index))]
	}
	return true
}

// Of linux/netconf.h: the size of struct netconfmsg, one byte, aligned; NETCONFA_IFINDEX.
const sizeofNetconf, netconfIndex = 4, 1

// attribute returns an attribute of 32 bits of a message whose head has a number of bytes.
func attribute(message []byte, head int, kind uint16) (value uint32, ok bool) {
	if len(message) < head {
		return 0, false
	}
	all, err := nl.ParseRouteAttr(message[head:])
	if err != nil {
		return 0, false
	}
	for _, a := range all {
		if a.Attr.Type == kind && len(a.Value) == 4 {
			return nl.NativeEndian().Uint32(a.Value), true
		}
	}
	return 0, false
}

// routeIsOurs tells whether a route is by a phone's link, or one that this package made.
func routeIsOurs(message []byte, ours map[int]bool) bool {
	if len(message) < unix.SizeofRtMsg {
		return false
	}
	index, ok := attribute(message, unix.SizeofRtMsg, unix.RTA_OIF)
	return nl.DeserializeRtMsg(message).Protocol == protocol || ok && ours[int(index)]
}

// state is what Watch compares.
type state struct {
	found    []finding
	uplinks  []uplink
	settings []string
	err      string
}

func (s state) equal(other state) bool {
	same := func(a, b uplink) bool {
		return a.name == b.name && a.mtu == b.mtu && slices.Equal(a.families, b.families)
	}
	return slices.Equal(s.found, other.found) && slices.EqualFunc(s.uplinks, other.uplinks, same) &&
		slices.Equal(s.settings, other.settings) && s.err == other.err
}

// state looks at the host. What cannot be found out is a state of its own.
func (w *Wire) state() state {
	var s state
	routes, err := w.mainRoutes()
	if err == nil {
		s.uplinks, err = w.uplinks(routes)
	}
	if err == nil {
		s.found, err = w.survey()
	}
	if err != nil {
		s.err = err.Error()
	}
	for _, u := range s.uplinks {
		for _, path := range []string{"ipv4/conf/" + u.name + "/forwarding", "ipv6/conf/" + u.name + "/force_forwarding", "ipv6/conf/all/forwarding"} {
			value, err := readSetting(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				value = err.Error()
			}
			s.settings = append(s.settings, path+"="+value)
		}
	}
	return s
}
