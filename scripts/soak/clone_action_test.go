package soak

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// twin is the name of the phone that a clone of one is: its own with a letter more, so that the inventory is alike for all.
func twin(id string) string { return id + "c" }

// cloneActions are the operation that makes a phone of another one's data. The clone is larger than the phone, so that it grows.
func cloneActions() []action {
	return []action{{name: "clone", from: off, to: off, makes: true, check: checkClone, always: alwaysClone, ask: askClone}}
}

// askClone makes the present phone's twin. As with creation, that it exists with this spec is how a retry finds out.
func askClone(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	answer, err := c.h.phones().CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{CloneFrom: c.id, Spec: &phonehostv1.PhoneSpec{
		Id: twin(c.id), DataBytes: c.before.GetSpec().GetDataBytes() + 4<<20,
	}})
	return answer.GetOperation(), err
}

// checkClone compares the data of both phones.
func checkClone(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	if err := c.h.await(ctx, twin(c.id), copied); err != nil {
		return err
	}
	source, err := c.h.files(ctx, c.id)
	if err != nil {
		return err
	}
	clone, err := c.h.files(ctx, twin(c.id))
	if err != nil {
		return err
	}
	if !maps.Equal(source, clone) {
		return fmt.Errorf("the clone holds %v, and what it is a copy of %v", clone, source)
	}
	return nil
}

// alwaysClone sees to it that a clone which failed leaves no phone, and that one which did not is whole.
func alwaysClone(ctx context.Context, c call, op *phonehostv1.Operation) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(settleLimit); ; <-tick.C {
		p, err := c.h.phones().GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: twin(c.id)})
		failed := op == nil || op.GetState() == phonehostv1.OperationState_OPERATION_STATE_FAILED
		switch {
		case status.Code(err) == codes.NotFound && failed:
			return nil
		case err == nil && !failed:
			return checkClone(ctx, c, op)
		case time.Now().After(deadline):
			return errors.Join(err, fmt.Errorf("after %v the clone is %v", op, p))
		}
	}
}

// files returns what the data volume of a phone that is off holds: the digest of every file, by path. The file system must be in order.
func (h *host) files(ctx context.Context, id string) (map[string]string, error) {
	images, err := filepath.Glob(h.path("state", "phones", id, "data-*.img"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s has the volumes %v: %w", id, images, err)
	}
	if out, err := exec.CommandContext(ctx, testenv.Tool(h.t, "e2fsck"), "-fn", images[0]).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the data of %s: %w\n%s", id, err, out)
	}
	m, err := volume.Open(ctx, images[0], true)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	err = fs.WalkDir(m.Root().FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		all[path] = e.Type().String()
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := m.Root().ReadFile(path)
		all[path] += fmt.Sprintf(" %x", sha256.Sum256(data))
		return err
	})
	return all, errors.Join(err, m.Close())
}
