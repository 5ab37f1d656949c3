package main

import (
	"fmt"
	"slices"
)

// protocolXML is the root of a description.
type protocolXML struct {
	Name       string         `xml:"name,attr"`
	Interfaces []interfaceXML `xml:"interface"`
}

type interfaceXML struct {
	Name        string         `xml:"name,attr"`
	Version     uint32         `xml:"version,attr"`
	Description descriptionXML `xml:"description"`
	Requests    []messageXML   `xml:"request"`
	Events      []messageXML   `xml:"event"`
	Enums       []enumXML      `xml:"enum"`
}

type messageXML struct {
	Name  string   `xml:"name,attr"`
	Type  string   `xml:"type,attr"`
	Since uint32   `xml:"since,attr"`
	Args  []argXML `xml:"arg"`
}

type argXML struct {
	Name      string `xml:"name,attr"`
	Type      string `xml:"type,attr"`
	Interface string `xml:"interface,attr"`
	AllowNull bool   `xml:"allow-null,attr"`
}

type enumXML struct {
	Name    string     `xml:"name,attr"`
	Entries []entryXML `xml:"entry"`
}

type entryXML struct {
	Name    string `xml:"name,attr"`
	Value   string `xml:"value,attr"`
	Summary string `xml:"summary,attr"`
}

type descriptionXML struct {
	Summary string `xml:"summary,attr"`
}

var argTypes = []string{"int", "uint", "fixed", "string", "object", "new_id", "array", "fd"}

// check refuses what the tables cannot express.
func (p *protocolXML) check() error {
	if p.Name == "" || len(p.Interfaces) == 0 {
		return fmt.Errorf("no protocol with interfaces")
	}
	for i := range p.Interfaces {
		face := &p.Interfaces[i]
		if face.Name == "" || face.Version == 0 {
			return fmt.Errorf("interface %q has no name or version", face.Name)
		}
		for _, list := range [][]messageXML{face.Requests, face.Events} {
			for j := range list {
				if err := list[j].check(face); err != nil {
					return fmt.Errorf("%s.%s: %w", face.Name, list[j].Name, err)
				}
			}
		}
	}
	return nil
}

func (m *messageXML) check(face *interfaceXML) error {
	if m.Since == 0 {
		m.Since = 1
	}
	if m.Since > face.Version {
		return fmt.Errorf("since %d is above the interface's version %d", m.Since, face.Version)
	}
	for _, a := range m.Args {
		if !slices.Contains(argTypes, a.Type) {
			return fmt.Errorf("argument %s has unknown type %q", a.Name, a.Type)
		}
	}
	return nil
}
