package vm

import (
	"context"
	"errors"
	"testing"
)

// theLab gives every Run of this process.
var theLab labHost

type labHost struct{}

func (*labHost) compiler(context.Context, Target, bool) ([]string, string, error) {
	return nil, "", errors.New("x")
}
func (*labHost) prepare(context.Context, Target, settings) error { return nil }
func (*labHost) boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error) {
	return nil, errors.New("x")
}
