package rules

import (
	"path/filepath"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"

	_ "github.com/phonehost/phonehost/proto/phonehost/display/v1" // registers what was generated
	_ "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// TestGeneratedProtocol compiles the .proto files and compares them with what the committed Go code was generated from. Comments and the
// generators' versions are compared by `make gen-diff`, which makes the code anew.
func TestGeneratedProtocol(t *testing.T) {
	dir := filepath.Join(root(t), "proto")
	files, err := filepath.Glob(filepath.Join(dir, "phonehost", "v1", "*.proto"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, filepath.Join(dir, "phonehost", "display", "v1", "display.proto"))
	if len(files) < 2 {
		t.Fatalf("only %v: the rule checks nothing", files)
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
	}
	for _, file := range files {
		name, err := filepath.Rel(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := compiler.Compile(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		generated, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			t.Errorf("%s was never generated: run make gen: %v", name, err)
			continue
		}
		want, got := protodesc.ToFileDescriptorProto(compiled[0]), protodesc.ToFileDescriptorProto(generated)
		want.SourceCodeInfo = nil
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("the Go code of %s is out of date: run make gen and commit\n%s", name, diff)
		}
	}
}
