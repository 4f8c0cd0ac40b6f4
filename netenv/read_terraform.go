package netenv

// terraform says that plans are not read.
func (in *input) terraform(map[string]any) {
	in.problem(in.file, "", "a Terraform document: not read")
}
