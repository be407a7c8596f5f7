package rules

import "openct/internal/driver"

// Entries lists the driver table.
func Entries(table []driver.Entry) []Entry {
	var entries []Entry
	for _, d := range table {
		for _, id := range d.IDs {
			entries = append(entries, Entry{
				Vendor: id.Vendor, Product: id.Product, Driver: d.Name, Name: id.Model, OptIn: d.Class != nil,
			})
		}
	}
	return entries
}
