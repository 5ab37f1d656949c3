// Command generate turns Wayland protocol descriptions in XML into the Go tables of encoder/wayland/protocol.
//
// Its output depends on the XML alone, so that it can be regenerated and compared. It reads and writes files and nothing
// else; it runs from go:generate.
package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", ".", "directory of the generated package")
	flag.Parse()
	if err := run(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run writes one file for each description.
func run(out string, inputs []string) error {
	for _, in := range inputs {
		data, err := os.ReadFile(in)
		if err != nil {
			return fmt.Errorf("read description (packages libwayland-dev and wayland-protocols have them): %w", err)
		}
		src, err := generate(filepath.Base(in), data)
		if err != nil {
			return fmt.Errorf("%s: %w", in, err)
		}
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(in), ".xml"), "-", "_") + ".go"
		if err := os.WriteFile(filepath.Join(out, name), src, 0o644); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

// generate returns the formatted Go source for one description.
func generate(name string, data []byte) ([]byte, error) {
	var doc protocolXML
	dec := xml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if err := doc.check(); err != nil {
		return nil, err
	}
	return render(name, &doc)
}
