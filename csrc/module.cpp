// The Python face of the native code.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind_matmul.h"
#include "bind_model.h"
#include "isa.h"
#include "pool.h"
#include "probe.h"

namespace nb = nanobind;
using namespace membound;

NB_MODULE(_core, m) {
    m.doc() = "membound's native core";

    m.def("isa", [] { return std::string(name(choose_isa())); });
    m.def("isas", [] {
        std::vector<std::string> names;
        for (Isa isa : supported_isas()) names.emplace_back(name(isa));
        return names;
    });
    m.def("default_threads", &default_threads);
    m.def("probe_read", &probe_read, nb::arg("bytes"), nb::arg("threads") = 0, nb::arg("seconds") = 0.2,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("probe_flops", &probe_flops, nb::arg("kind"), nb::arg("threads") = 0, nb::arg("seconds") = 0.2,
          nb::call_guard<nb::gil_scoped_release>());
    bind_matmul(m);
    bind_model(m);
}
