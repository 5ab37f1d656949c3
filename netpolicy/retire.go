package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/netpolicy/wire"
)

// Setting is a setting of the host's that was changed for phones.
type Setting = wire.Setting

// Retired is what Engines with a Config have left in the kernel of a host that is to have no networks of phones any more. It is taken away
// phone by phone (Release), and then the rest (Finish). While a Retired is open no Engine can be opened; what it has not taken away stays in force:
// phones are judged by the policies that the kernel has.
//
// Its methods may be called by several goroutines.
type Retired struct {
	cfg   Config
	wire  *wire.Wire
	nat   *nat.NAT
	owned io.Closer // nil where there are no pins

	mu sync.Mutex // held while anything is taken away
}

// Retire opens what is left. errdefs.ErrUnavailable: an Engine has it. The caller closes it.
func Retire(c Config) (_ *Retired, err error) {
	r := &Retired{cfg: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.owned, err = datapath.Lock(c.Pins); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if r.wire, err = wire.New(c.wire()); err != nil {
		return nil, err
	}
	if r.nat, err = nat.New(c.nat()); err != nil {
		return nil, err
	}
	return r, nil
}

// Close gives the handles up.
func (r *Retired) Close() error {
	if r.wire != nil {
		r.wire.Close()
	}
	if r.owned == nil {
		return nil
	}
	return r.owned.Close()
}

// Made tells whether there are pins, which are the first that an Engine makes and the last that goes.
func (r *Retired) Made() bool { return r.owned != nil }

// Phones returns the phones that have a link or an ifb, in order.
func (r *Retired) Phones() ([]string, error) {
	pairs, err := r.wire.List()
	if err != nil {
		return nil, err
	}
	shaped, err := shape.List()
	if err != nil {
		return nil, err
	}
	all := slices.Concat(pairs, shaped)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Release takes a phone's link and limits away; its namespace stays. What is not there is no error.
func (r *Retired) Release(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(shape.Clear(ctx, id), r.wire.Remove(ctx, id)); err != nil {
		return fmt.Errorf("remove the network of %s: %w", id, err)
	}
	return nil
}

// Finish takes away what is no single phone's, and all phones' links and ifbs that are left: the nftables table, the routes of the pools, the
// name server's state, the settings of the host's that nobody else can need (left are those that stay), and the pins. What is not
// there is no error. The name server itself is its owner's to end, before.
func (r *Retired) Finish(ctx context.Context) (left []Setting, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.wire.Sweep(ctx, nil), shape.Prune(ctx, nil), r.nat.Remove(ctx), r.wire.Withdraw(ctx)); err != nil {
		return nil, err
	}
	_, left, err = r.wire.Restore()
	if err := errors.Join(err, os.RemoveAll(r.cfg.NameServerState), r.unpin()); err != nil {
		return left, fmt.Errorf("remove what phones' networks are made of: %w", err)
	}
	return left, nil
}

// unpin removes the pins. A directory that is on no BPF file system has none.
func (r *Retired) unpin() error {
	if _, err := os.Lstat(r.cfg.Pins); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := datapath.Remove(r.cfg.Pins); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	return nil
}

// Remove takes away all that Engines with a Config have made in the host's network, the phones' namespaces included: phones that run keep
// theirs, without a link. left are settings of the host's that stay as they are. errdefs.ErrUnavailable: an Engine is open. After a crash
// the next call goes on.
func Remove(ctx context.Context, c Config) (left []Setting, err error) {
	r, err := Retire(c)
	if err != nil {
		return nil, err
	}
	left, err = r.Finish(ctx)
	if err := errors.Join(err, r.Close()); err != nil {
		return left, err
	}
	names, err := c.NetNS.List()
	if err != nil {
		return left, err
	}
	var errs []error
	for _, id := range names {
		errs = append(errs, c.NetNS.Delete(id))
	}
	return left, errors.Join(errs...)
}
