package shape

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Set makes the kernel hold a phone to limits: up for what it sends and down for what it receives, in bit/s, each 0 for none or MinBits
// to MaxBits. index is that of the host's end of its link. A rate that changes does so in place, and no packet in the queue is lost.
//
// Errors: errdefs.ErrInvalidArgument for a limit out of range, ErrNotFound when there is no such link, ErrFailedPrecondition when somebody
// else's qdisc or link has the place of ours, ErrNotImplemented when the kernel lacks what is needed.
func Set(ctx context.Context, index int, id string, up, down uint64) error {
	if err := errors.Join(check("upload", up), check("download", down), ctx.Err()); err != nil {
		return fmt.Errorf("bandwidth of %s: %w", id, err)
	}
	link, err := linkByIndex(index)
	if err != nil {
		return fmt.Errorf("bandwidth of %s: %w", id, err)
	}
	if err := setBucket(link, down); err != nil {
		return fmt.Errorf("download limit of %s: %w", id, err)
	}
	if err := setUpload(link, id, up); err != nil {
		return fmt.Errorf("upload limit of %s: %w", id, err)
	}
	return nil
}

// Clear removes all limits of a phone, whether or not its link is still there. What is not there is no error.
func Clear(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("bandwidth of %s: %w", id, err)
	}
	link, err := linkByName(linkName(id))
	if err != nil {
		return fmt.Errorf("bandwidth of %s: %w", id, err)
	}
	if link != nil {
		if err := setBucket(link, 0); err != nil {
			return fmt.Errorf("download limit of %s: %w", id, err)
		}
		if err := undivert(link); err != nil {
			return fmt.Errorf("upload limit of %s: %w", id, err)
		}
	}
	if err := removeUpload(UploadName(id)); err != nil {
		return fmt.Errorf("upload limit of %s: %w", id, err)
	}
	return nil
}

// List returns the phones that have an ifb, in order. One that a killed Set has made but not yet named is not among them: Prune finds it.
// Limits of downloads go with the phone's link, and are not listed.
func List() ([]string, error) {
	all, err := uploads()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, l := range all {
		if id, ok := strings.CutPrefix(l.Attrs().Alias, aliasPrefix); ok && UploadName(id) == l.Attrs().Name {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Prune removes the ifbs that belong to none of the phones in keep. No Set of a phone that is not in keep may run.
func Prune(ctx context.Context, keep []string) error {
	all, err := uploads()
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, id := range keep {
		names[UploadName(id)] = true
	}
	for _, l := range all {
		if names[l.Attrs().Name] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("remove the links of phones that are no more: %w", err)
		}
		if err := removeUpload(l.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

// Probe tells whether this kernel can limit: it makes all that a limit needs, for a link that is nobody's, and removes it.
// errdefs.ErrNotImplemented names what the kernel lacks.
func Probe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("try limits: %w", err)
	}
	name := UploadName(nobody)
	if err := removeUpload(name); err != nil {
		return fmt.Errorf("try limits: %w", err)
	}
	err := try(name)
	if removed := removeUpload(name); err == nil {
		err = removed
	}
	if err != nil {
		return fmt.Errorf("try limits: %w", err)
	}
	return nil
}

// nobody is no phone's id, by its blank.
const nobody = "no phone"

func try(name string) error {
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}}); err != nil {
		return fmt.Errorf("make %s: %w", name, unsupported(err, "ifb"))
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	if err := setBucket(link, MinBits); err != nil {
		return err
	}
	return divert(link, link.Attrs().Index)
}

// uploads returns the links that have the kind and name of ours.
func uploads() ([]netlink.Link, error) {
	all, err := links()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool {
		rest, ours := strings.CutPrefix(l.Attrs().Name, uploadPrefix)
		return !ours || len(rest) != digits || l.Type() != "ifb"
	}), nil
}
