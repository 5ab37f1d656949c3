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
	appLists   phonehostv1.AppListServiceClient
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
		appLists: phonehostv1.NewAppListServiceClient(conn.Control()),
	}
}

// create creates phones whose screens are small and still, 8 at once.
func (f *fleet) create(ids []string) {
	f.t.Helper()
	err := eachOf(f.t.Context(), ids, stormBoots, func(ctx context.Context, id string) error {
		_, err := f.phones.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
			Id: id, Image: "phonehost.dev/testphone:latest", MemoryBytes: 256 << 20, DataBytes: 128 << 20,
			Display:    &phonehostv1.DisplaySpec{Width: 240, Height: 426},
			Properties: map[string]string{"debug.testphone.scene": "still"},
		}})
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// powerOn powers phones on and waits until all run.
func (f *fleet) powerOn(ids []string) {
	f.t.Helper()
	on, err := f.phones.PowerOn(f.t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: ids})
	if err != nil {
		f.t.Fatal(err)
	}
	f.finish(on.GetOperation())
}

// remove removes phones, whatever they do.
func (f *fleet) remove(ids []string) {
	f.t.Helper()
	gone, err := f.phones.Delete(f.t.Context(), &phonehostv1.DeleteRequest{PhoneIds: ids, Force: true})
	if err != nil {
		f.t.Fatal(err)
	}
	f.finish(gone.GetOperation())
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
