package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// fleet is a host's phones through the API, for what is done to many at once or timed more closely than phonectl can.
type fleet struct {
	t          testing.TB
	phones     phonehostv1.PhoneServiceClient
	operations phonehostv1.OperationServiceClient
}

// newFleet connects to the host's Unix socket.
func newFleet(h *host) *fleet {
	h.t.Helper()
	conn, err := client.Dial(h.t.Context(), client.Options{Host: "unix://" + h.socket()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return &fleet{
		t: h.t, phones: phonehostv1.NewPhoneServiceClient(conn.Control()), operations: phonehostv1.NewOperationServiceClient(conn.Control()),
	}
}

// finish follows an operation to its end. It must succeed for every phone.
func (f *fleet) finish(op *phonehostv1.Operation) {
	f.t.Helper()
	stream, err := f.operations.Watch(f.t.Context(), &phonehostv1.OperationServiceWatchRequest{OperationId: op.GetId()})
	if err != nil {
		f.t.Fatal(err)
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.t.Fatal(err)
		}
		op = answer.GetOperation()
	}
	if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		f.t.Fatalf("operation has not succeeded: %v", op)
	}
}

// running returns the phones, all of which must run.
func (f *fleet) running(ids []string) []*phonehostv1.Phone {
	f.t.Helper()
	list, err := f.phones.ListPhones(f.t.Context(), &phonehostv1.ListPhonesRequest{PhoneIds: ids})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range list.GetPhones() {
		if p.GetStatus() != phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING {
			f.t.Fatalf("%s is %s: %s", p.GetSpec().GetId(), p.GetStatus(), p.GetReason())
		}
	}
	return list.GetPhones()
}

// names are the ids of n phones.
func names(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("p%03d", i+1)
	}
	return ids
}

// eachOf calls fn for every item, so many at once, and returns the first error.
func eachOf[T any](ctx context.Context, items []T, atOnce int, fn func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, item := range items {
		g.Go(func() error { return fn(ctx, item) })
	}
	return g.Wait()
}
