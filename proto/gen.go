// Package proto holds the protocol definitions of phonehost and the Go code generated from them.
//
// phonehost/v1 is the public API of the agent; phonehost/display/v1 is spoken between the agent and its phone-display
// processes. Generated code is committed beside its source; `make gen` makes it anew with the generators that go.mod and
// scripts/tools/go.mod pin.
package proto

//go:generate go tool -modfile=../scripts/tools/go.mod buf generate
