package wire

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// WatchGone tells the ids of phones whose host ends the kernel says to be gone, for whatever reason; an empty id stands for any, in the
// beginning and after the kernel had to drop announcements. Index tells whether there is another by now. Its goroutine waits for the receiver.
//
// The channel is closed when ctx has ended and the one goroutine behind it has too.
func (w *Wire) WatchGone(ctx context.Context) <-chan string {
	gone := make(chan string)
	go func() {
		defer close(gone)
		w.again(ctx, func() error { return w.listenGone(ctx, gone) })
	}()
	return gone
}

// listenGone tells of host ends that go until the context ends or the subscription breaks, which is its error.
func (w *Wire) listenGone(ctx context.Context, gone chan<- string) error {
	s, err := w.subscribe(unix.RTNLGRP_LINK)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, s.Close) // it ends Receive
	defer stop()
	for ids := []string{""}; ; { // what happened before the subscription was not announced
		for _, id := range ids {
			select {
			case gone <- id:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		messages, _, err := s.Receive()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		ids = ids[:0]
		for _, m := range messages {
			if id, ok := goneEnd(m.Header.Type, m.Data); ok {
				ids = append(ids, id)
			}
		}
	}
}

// goneEnd returns the phone whose host end an announcement says to be gone.
func goneEnd(kind uint16, message []byte) (id string, ok bool) {
	if kind != unix.RTM_DELLINK || len(message) < unix.SizeofIfInfomsg {
		return "", false
	}
	link, err := netlink.LinkDeserialize(nil, message)
	if err != nil || !isHostEnd(link) {
		return "", false
	}
	return owner(link.Attrs().Name, link.Attrs().Alias)
}

// Index returns the index of a phone's host end, 0 when there is none.
func (w *Wire) Index(id string) (int, error) {
	link, err := w.hostEnd(id)
	if err != nil || link == nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}
