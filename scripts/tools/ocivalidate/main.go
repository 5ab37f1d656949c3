// Command ocivalidate checks OCI runtime specs: by the checks of oci-runtime-tool validate, but the one that fetches the JSON schema
// from the network, and by the JSON schema of the same release of the specification, out of a directory.
//
//	ocivalidate -schema DIR FILE...
//
// It prints what is wrong, a line each, and exits 1 then. It is a module of its own: the tool and the release of the specification
// that it goes with must not enter the project's module graph.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/validate"
	"github.com/sirupsen/logrus"
	"github.com/xeipuuv/gojsonschema"
)

func main() {
	schema := flag.String("schema", "", "directory with config-schema.json of the OCI runtime specification")
	flag.Parse()
	logrus.SetOutput(io.Discard) // what the tool only warns of: programs that it does not find in the empty root
	wrong := false
	for _, file := range flag.Args() {
		for _, err := range check(*schema, file) {
			fmt.Printf("%s: %s\n", file, strings.Join(strings.Fields(err.Error()), " "))
			wrong = true
		}
	}
	if wrong || flag.NArg() == 0 {
		os.Exit(1)
	}
}

// check returns what is wrong with one spec.
func check(schema, file string) []error {
	text, err := os.ReadFile(file)
	if err != nil {
		return []error{err}
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return []error{err}
	}
	return append(checkSchema(schema, text), checkTool(&spec)...)
}

func checkSchema(dir string, text []byte) []error {
	result, err := gojsonschema.Validate(gojsonschema.NewReferenceLoader("file://"+filepath.Join(dir, "config-schema.json")), gojsonschema.NewBytesLoader(text))
	if err != nil {
		return []error{fmt.Errorf("JSON schema: %w", err)}
	}
	var wrong []error
	for _, e := range result.Errors() {
		wrong = append(wrong, errors.New("JSON schema: "+e.String()))
	}
	return wrong
}

// checkTool makes a bundle with an empty root and runs the tool's checks on it.
func checkTool(spec *specs.Spec) []error {
	bundle, err := os.MkdirTemp("", "ocivalidate-")
	if err != nil {
		return []error{err}
	}
	defer os.RemoveAll(bundle)
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		return []error{err}
	}
	v, err := validate.NewValidator(spec, bundle, false, "linux")
	if err != nil {
		return []error{err}
	}
	var wrong []error
	for _, check := range []func() error{
		v.CheckPlatform, v.CheckRoot, v.CheckMandatoryFields, v.CheckSemVer, v.CheckMounts, v.CheckProcess, v.CheckLinux, v.CheckAnnotations, v.CheckHooks,
	} {
		// An error that holds no errors is how some of them say that all is well.
		if err := check(); err != nil && !strings.HasPrefix(err.Error(), "0 errors occurred") {
			wrong = append(wrong, err)
		}
	}
	return wrong
}
