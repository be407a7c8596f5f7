package proto

import (
	"fmt"
	"slices"
)

// Name is a protocol and what OpenCT calls it.
type Name struct {
	ID   ID
	Name string
}

// Names lists the protocols in the order in which OpenCT lists them
// (protocol.c).
func Names() []Name {
	return []Name{
		{T0, "T=0"},
		{T1, "T=1"},
		{GBP, "GBP"},
		{Transparent, "transparent"},
		{I2CShort, "I2C short"},
		{I2CLong, "I2C long"},
		{TwoWire, "2Wire"},
		{ThreeWire, "3Wire"},
		{Eurochip, "Eurochip Countercard"},
		{Escape, "escape"},
	}
}

// Known says whether OpenCT has a protocol of this number, Default included.
func (id ID) Known() bool {
	return id == Default || slices.ContainsFunc(Names(), func(n Name) bool { return n.ID == id })
}

// String is OpenCT's name of the protocol.
func (id ID) String() string {
	if id == Default {
		return "default"
	}
	for _, n := range Names() {
		if n.ID == id {
			return n.Name
		}
	}
	return fmt.Sprintf("protocol %d", int(id))
}
