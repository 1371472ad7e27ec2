//! Routes of the API, each added together with its description: there is no other way to add one.

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodFilter, on};

use super::super::Doors;
use super::super::auth::RouteAction;
use super::super::error::Error;
use super::super::params::Params;
use super::{Described, Description, Document, Operation, Schemas};

/// Routes and their descriptions.
#[derive(Debug, Default)]
pub struct Api {
    router: Router<Doors>,
    section: &'static str,
    descriptions: Vec<Description>,
    schemas: Schemas,
}

impl Api {
    /// The routes that follow are in this part of the reference.
    pub fn section(self, section: &'static str) -> Api {
        Api { section, ..self }
    }

    /// A route for reading.
    pub fn get<H, T, I>(self, path: &'static str, operation: &'static Operation, handler: H) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        self.route(MethodFilter::GET, "get", path, operation, handler)
    }

    /// A route for doing something.
    pub fn post<H, T, I>(self, path: &'static str, operation: &'static Operation, handler: H) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        self.route(MethodFilter::POST, "post", path, operation, handler)
    }

    /// A route for putting something under a name.
    pub fn put<H, T, I>(self, path: &'static str, operation: &'static Operation, handler: H) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        self.route(MethodFilter::PUT, "put", path, operation, handler)
    }

    /// A route for changing some of what there is.
    pub fn patch<H, T, I>(self, path: &'static str, operation: &'static Operation, handler: H) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        self.route(MethodFilter::PATCH, "patch", path, operation, handler)
    }

    /// A route for deleting.
    pub fn delete<H, T, I>(self, path: &'static str, operation: &'static Operation, handler: H) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        self.route(MethodFilter::DELETE, "delete", path, operation, handler)
    }

    fn route<H, T, I>(
        mut self,
        filter: MethodFilter,
        method: &'static str,
        path: &'static str,
        operation: &'static Operation,
        handler: H,
    ) -> Api
    where
        H: Handler<T, Doors> + Described<I>,
        T: 'static,
    {
        let mut description = Description::new(self.section, method, path, operation);
        // A parameter that nobody knows, or two Host headers.
        description.may_fail(400);
        H::describe(&mut description, &mut self.schemas);
        self.descriptions.push(description);
        let refuse = from_fn(move |params: Params, mut request: Request, next: Next| async move {
            if !operation.takes_any_query {
                only_described(params, operation)?;
            }
            if let Some(action) = operation.action {
                request.extensions_mut().insert(RouteAction(action));
            }
            Ok::<Response, Error>(next.run(request).await)
        });
        self.router = self.router.route(path, on(filter, handler).route_layer(refuse));
        self
    }

    /// The routes.
    pub fn into_router(self) -> Router<Doors> {
        self.router
    }

    /// What is said of them.
    pub fn into_document(self) -> Document {
        Document { descriptions: self.descriptions, schemas: self.schemas.into_definitions() }
    }
}

/// Refuses every parameter of a query that the operation does not describe.
fn only_described(params: Params, operation: &Operation) -> Result<(), Error> {
    let names = |is_repeatable: bool| -> Vec<&'static str> {
        let parameters = operation.query.iter().filter(|parameter| parameter.is_repeatable == is_repeatable);
        parameters.map(|parameter| parameter.name).collect()
    };
    params.only(&names(false), &names(true)).map(drop)
}
