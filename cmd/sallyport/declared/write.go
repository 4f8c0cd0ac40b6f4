package declared

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Text is one document, without "---".
func Text(spec any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(spec); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), nil
}

// File is several documents.
func File(specs []any) ([]byte, error) {
	var all [][]byte
	for _, s := range specs {
		text, err := Text(s)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return bytes.Join(all, []byte("---\n")), nil
}
