#include "ops/recurrent_ensemble.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "ops/recurrent_figures.h"

namespace gt {
namespace {

bool starts_with(const std::string& name, const char* start) { return name.rfind(start, 0) == 0; }
bool is_of_step(const std::string& name) { return name.size() > 5 && name.compare(name.size() - 5, 5, "_step") == 0; }

// A trace's figures of one network after the other, at one place.
template <class T>
class FiguresInPlace final : public Figures<T> {
  public:
    struct Place {
        Extents shape;
        AlignedBuffer<double> values;
    };

    // Where nobody wants them, dL/dx and norms of single steps need not be computed.
    explicit FiguresInPlace(const Names& wanted)
        : input_gradient_(wanted.count("log2_dx") != 0),
          steps_(std::any_of(wanted.begin(), wanted.end(), is_of_step)) {}

    double* figure(const char* name, const Extents& shape) override {
        if ((name == std::string("log2_dx") && !input_gradient_) || (is_of_step(name) && !steps_)) return nullptr;
        Place& place = places_[name];
        place = {shape, AlignedBuffer<double>(entries_of(shape))};
        return place.values.data();
    }
    std::vector<double*> figure_of_layers(const char*, const std::vector<Extents>& shapes) override {
        return std::vector<double*>(shapes.size());  // layers differ in width, which no law has
    }
    KeptRows<T> kept(const char*, const Extents&, const Extents&) override { return {}; }
    std::vector<KeptRows<T>> kept_of_layers(const char*, const Extents&, const std::vector<Extents>& rows) override {
        return std::vector<KeptRows<T>>(rows.size());
    }

    const double* values(const std::string& name) const { return places_.at(name).values.data(); }

  private:
    bool input_gradient_, steps_;
    std::map<std::string, Place> places_;
};

// What a trace asks for, and no memory for it.
template <class T>
class FigureShapes final : public Figures<T> {
  public:
    double* figure(const char* name, const Extents& shape) override {
        shapes.emplace_back(name, shape);
        return nullptr;
    }
    std::vector<double*> figure_of_layers(const char*, const std::vector<Extents>& all) override {
        return std::vector<double*>(all.size());
    }
    KeptRows<T> kept(const char*, const Extents&, const Extents&) override { return {}; }
    std::vector<KeptRows<T>> kept_of_layers(const char*, const Extents&, const std::vector<Extents>& rows) override {
        return std::vector<KeptRows<T>>(rows.size());
    }

    std::vector<std::pair<std::string, Extents>> shapes;
};

EnsembleFigure turned(const std::string& name, const Extents& shape) {
    EnsembleFigure figure{name, {1}, 1, entries_of(shape), 1};
    Extents rest = shape;
    if (starts_with(name, "gate_")) {  // (layers, steps, gates)
        figure.matrices = shape[0];
        figure.rows = shape[1];
        figure.columns = shape[2];
        std::swap(rest[1], rest[2]);
    } else if (shape.size() == 3 || name == "log2_dx") {  // samples last
        figure.columns = figure.shape[0] = shape.back();
        figure.rows /= std::max<std::size_t>(1, figure.columns);
        rest.pop_back();
    }
    figure.shape.insert(figure.shape.end(), rest.begin(), rest.end());
    return figure;
}

void transpose(const EnsembleFigure& figure, const double* from, double* to) {
    const std::size_t size = figure.rows * figure.columns;
    for (std::size_t m = 0; m < figure.matrices; ++m)
        for (std::size_t c = 0; c < figure.columns; ++c)
            for (std::size_t r = 0; r < figure.rows; ++r)
                to[m * size + c * figure.rows + r] = from[m * size + r * figure.columns + c];
}

bool is_of_gradient(const EnsembleFigure& figure) { return starts_with(figure.name, "log2_grad_"); }

// Everything that one thread needs for a network, made once.
template <class T>
class EnsembleWorker {
  public:
    EnsembleWorker(const IsaKernels& isa, const RecurrentEnsemble<T>& ensemble,
                   const std::vector<EnsembleFigure>& figures)
        : isa_(isa),
          ensemble_(ensemble),
          figures_(figures),
          x_(ensemble.x ? 0 : ensemble.input_count()),
          cotangent_(ensemble.cotangent ? 0 : ensemble.cotangent_count()),
          tracer_(isa, network(), ensemble.steps, ensemble.samples, nullptr, RecurrentTracer<T>::Purpose::trace),
          places_(names_of(figures)),
          traced_(tracer_.network(), ensemble.steps, ensemble.samples, kept_, places_),
          gradients_(std::any_of(figures.begin(), figures.end(), is_of_gradient)) {
        for (DirectionOutputs<T>& direction : traced_.directions) direction.gradients = gradients_;
    }

    void run(std::uint64_t seed, Interrupt& interrupt) {
        const BufferShelf::Use shelf(shelf_);
        for (std::size_t k = 0; k < parameters_.size(); ++k)
            draw_recurrent_layer(isa_, ensemble_.law, seed, k, parameters_[k].arrays(), interrupt);
        const T* x = given_or_drawn(ensemble_.x, seed, Draw::input, &x_, interrupt);
        const T* cotangent = given_or_drawn(ensemble_.cotangent, seed, Draw::cotangent, &cotangent_, interrupt);
        tracer_.forward(x, {}, {}, interrupt);
        for (std::size_t k = 0; k < parameters_.size(); ++k) tracer_.store_forward(k, traced_.forwards[k]);
        tracer_.backward({cotangent, nullptr, ensemble_.every_step, {}, {}}, traced_.directions, traced_.log2_dx,
                         traced_.dx, interrupt);
        if (gradients_) traced_.write_gradients(tracer_);
    }

    void store(std::size_t network, const std::vector<double*>& out) const {
        for (std::size_t i = 0; i < figures_.size(); ++i)
            transpose(figures_[i], places_.values(figures_[i].name), out[i] + network * figures_[i].size());
    }

  private:
    struct Parameters {
        AlignedBuffer<T> weight_ih, weight_hh, bias_ih, bias_hh;
        LayerParameters<T> arrays() { return {weight_ih.data(), weight_hh.data(), bias_ih.data(), bias_hh.data()}; }
    };

    static Names names_of(const std::vector<EnsembleFigure>& figures) {
        Names names;
        for (const EnsembleFigure& figure : figures) names.insert(figure.name);
        return names;
    }

    // Of parameters that are not drawn yet.
    RecurrentNetwork<T> network() {
        const RecurrentLaw& law = ensemble_.law;
        RecurrentNetwork<T> net{law.kind, law.inputs, law.directions, {}};
        for (std::size_t k = 0; k < law.layers(); ++k) {
            const std::size_t inputs = law.inputs_of(k), rows = law.rows();
            parameters_.push_back({AlignedBuffer<T>(checked_multiply(rows, inputs)),
                                   AlignedBuffer<T>(checked_multiply(rows, law.hidden)), AlignedBuffer<T>(rows),
                                   AlignedBuffer<T>(rows)});
            const LayerParameters<T> arrays = parameters_.back().arrays();
            net.layers.push_back(
                {inputs, law.hidden, arrays.weight_ih, arrays.weight_hh, arrays.bias_ih, arrays.bias_hh});
        }
        return net;
    }

    const T* given_or_drawn(const T* given, std::uint64_t seed, Draw draw, AlignedBuffer<T>* own,
                            Interrupt& interrupt) const {
        if (given) return given;
        fill_random(isa_, Law::normal, seed, 0, draw, 1.0, own->size(), own->data(), interrupt);
        return own->data();
    }

    BufferShelf shelf_;
    const IsaKernels& isa_;
    const RecurrentEnsemble<T>& ensemble_;
    const std::vector<EnsembleFigure>& figures_;
    std::vector<Parameters> parameters_;
    AlignedBuffer<T> x_, cotangent_;
    RecurrentTracer<T> tracer_;
    const Names kept_;  // nothing
    FiguresInPlace<T> places_;
    RecurrentFigures<T> traced_;
    bool gradients_;
};

}  // namespace

template <class T>
static RecurrentNetwork<T> without_weights(const RecurrentLaw& law) {
    RecurrentNetwork<T> network{law.kind, law.inputs, law.directions, {}};
    for (std::size_t k = 0; k < law.layers(); ++k)
        network.layers.push_back({law.inputs_of(k), law.hidden, nullptr, nullptr, nullptr, nullptr});
    return network;
}

template <class T>
std::size_t trace_bytes(const RecurrentEnsemble<T>& ensemble) {
    return recurrent_memory<T>(without_weights<T>(ensemble.law), ensemble.steps, ensemble.samples, {}).figure_bytes;
}

template <class T>
std::vector<EnsembleFigure> ensemble_figures(const RecurrentEnsemble<T>& ensemble) {
    FigureShapes<T> asked;
    RecurrentFigures<T>(without_weights<T>(ensemble.law), ensemble.steps, ensemble.samples, {}, asked);
    std::vector<EnsembleFigure> figures;
    for (const auto& [name, shape] : asked.shapes) figures.push_back(turned(name, shape));
    return figures;
}

template <class T>
void trace_recurrent_ensemble(const IsaKernels& isa, const RecurrentEnsemble<T>& ensemble,
                              const std::vector<std::uint64_t>& seeds, const std::vector<EnsembleFigure>& figures,
                              const std::vector<double*>& out, Interrupt& interrupt) {
    const RecurrentLaw& law = ensemble.law;
    const double weights = static_cast<double>(law.layers() * law.rows() * (law.inputs + law.hidden)),
                 operations = 6 * weights * static_cast<double>(ensemble.steps * ensemble.samples);
    constexpr double kBrief = 1e9;  // some tens of milliseconds: a trace that need not look for Ctrl-C
    const Loop loop{seeds.size(), operations * static_cast<double>(seeds.size())};
    std::vector<std::unique_ptr<EnsembleWorker<T>>> workers(loop.workers());
    parallel_for(loop, [&](std::size_t network, std::size_t worker) {
        const OneThread alone;
        const auto asked = [&] { return worker == 0 ? interrupt.requested(0) : interrupt.stopped(); };
        if (asked()) throw Interrupted{};
        Interrupt amid(operations < kBrief ? std::function<bool()>() : asked);
        auto& own = workers[worker];
        if (!own) own = std::make_unique<EnsembleWorker<T>>(isa, ensemble, figures);
        own->run(seeds[network], amid);
        own->store(network, out);
    });
}

template std::size_t trace_bytes<float>(const RecurrentEnsemble<float>&);
template std::size_t trace_bytes<double>(const RecurrentEnsemble<double>&);
template std::vector<EnsembleFigure> ensemble_figures<float>(const RecurrentEnsemble<float>&);
template std::vector<EnsembleFigure> ensemble_figures<double>(const RecurrentEnsemble<double>&);
template void trace_recurrent_ensemble<float>(const IsaKernels&, const RecurrentEnsemble<float>&,
                                              const std::vector<std::uint64_t>&, const std::vector<EnsembleFigure>&,
                                              const std::vector<double*>&, Interrupt&);
template void trace_recurrent_ensemble<double>(const IsaKernels&, const RecurrentEnsemble<double>&,
                                               const std::vector<std::uint64_t>&, const std::vector<EnsembleFigure>&,
                                               const std::vector<double*>&, Interrupt&);

}  // namespace gt
