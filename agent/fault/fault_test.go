package fault

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
)

// otherError has a reason without being an Error.
type otherError struct{}

func (otherError) Error() string  { return "other" }
func (otherError) Reason() string { return "OTHER" }

func TestReasonAndCode(t *testing.T) {
	wrapped := fmt.Errorf("step: %w", New(errdefs.ErrFailedPrecondition, Busy, "phone %s", "p1").With("operation_id", "op-1"))
	tests := []struct {
		name   string
		err    error
		reason string
		code   codes.Code
	}{
		{"nil", nil, "", codes.OK},
		{"wrapped", wrapped, Busy, codes.FailedPrecondition},
		{"joined", errors.Join(errors.New("x"), wrapped), Busy, codes.FailedPrecondition},
		{"field", Field("spec.id", "is wrong"), InvalidField, codes.InvalidArgument},
		{"class alone", errdefs.ErrNotFound, "", codes.NotFound},
		{"resources", errdefs.ErrResourceExhausted, "", codes.ResourceExhausted},
		{"deadline", context.DeadlineExceeded, "", codes.DeadlineExceeded},
		{"another package's", otherError{}, "OTHER", codes.Unknown},
		{"plain", errors.New("x"), "", codes.Unknown},
	}
	for _, tt := range tests {
		if got, code := Reason(tt.err), Code(tt.err); got != tt.reason || code != tt.code {
			t.Errorf("%s: %q %s, want %q %s", tt.name, got, code, tt.reason, tt.code)
		}
	}
	if got := Meta(wrapped)["operation_id"]; got != "op-1" {
		t.Errorf("metadata %q, want op-1", got)
	}
	if Meta(errors.New("x")) != nil {
		t.Error("a plain error has metadata")
	}
}

func TestWithLeavesTheOriginalAlone(t *testing.T) {
	first := New(errdefs.ErrNotFound, NoSuchPhone, "x").With("a", "1")
	second := first.With("b", "2")
	if len(first.Meta) != 1 || len(second.Meta) != 2 || !errors.Is(second, errdefs.ErrNotFound) {
		t.Errorf("%v %v", first.Meta, second.Meta)
	}
}

func TestWords(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("no class: not found"), "no class: not found"},
		{fmt.Errorf("the peer closed the connection: %w", errdefs.ErrUnavailable), "the peer closed the connection"},
		{fmt.Errorf("read a.pem: no such file: %w", errdefs.ErrNotFound), "read a.pem: no such file"},
	} {
		if got := Words(test.err); got != test.want {
			t.Errorf("Words(%v) = %q, want %q", test.err, got, test.want)
		}
	}
}
